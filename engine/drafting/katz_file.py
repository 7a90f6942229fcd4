"""The file of a Katz table, in safetensors layout: a length, a JSON header, flat arrays.

It is mapped into memory, so that nothing is read but what is asked for.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from engine.drafting.katz_build import LEVEL_LOGPROBS, Array

FILE_NAME = "katz.safetensors"

_FORMAT = "stagetree-katz-1"
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "F32": np.float32}


def file_of(path: str | Path) -> Path:
    """The file itself, or that of the usual name in a folder that exists."""
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def write(arrays: Mapping[str, Array], file: Path, **metadata: str) -> None:
    """Write a table's arrays, with what else is to be known of it."""
    save_file(dict(arrays), file, {"format": _FORMAT, **metadata})


def read(file: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """A table's arrays and what else was written of it. Raises ValueError for what is none."""
    with file.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        if length > file.stat().st_size:
            raise ValueError("it is not in safetensors layout")
        header = json.loads(source.read(length))
    metadata = header.pop("__metadata__", {})
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
    data = np.memmap(file, np.uint8, mode="r", offset=8 + length)
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        flat = np.asarray(data[start:end]).view(_DTYPES[entry["dtype"]])
        if len(flat) != math.prod(entry["shape"]):
            raise ValueError(f"{name} is cut short")
        arrays[name] = flat
    _check(arrays)
    return arrays, metadata


def _check(arrays: Mapping[str, Array]) -> None:
    """Raise ValueError unless what counts and points is in range: nothing asks that again."""
    vocab_size, starts = len(arrays["unigram"]), arrays["trigram_starts"]
    num_contexts = {"bigram": vocab_size, "trigram": len(arrays["trigram_befores"])}
    is_right = len(starts) == vocab_size + 1 and starts[-1] == num_contexts["trigram"]
    is_right = is_right and bool((starts[1:] >= starts[:-1]).all())
    for order, count in num_contexts.items():
        counts, backoffs = arrays[f"{order}_counts"], arrays[f"{order}_backoffs"]
        tokens, levels = arrays[f"{order}_tokens"], arrays[f"{order}_levels"]
        is_right = is_right and count == len(counts) == len(backoffs)
        is_right = is_right and counts.sum(dtype=np.int64) == len(tokens) == len(levels)
        is_right = is_right and tokens.max(initial=0) < vocab_size
        is_right = is_right and levels.max(initial=0) < len(LEVEL_LOGPROBS)
    if not is_right:
        raise ValueError("its numbers contradict each other")
