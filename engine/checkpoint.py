"""What a checkpoint holds, looked at before it is loaded and checked after, each fault in one line.

For targets, drafts and heads alike: what is wrong with the files, which weights are missing or left
over, which are not numbers. Whatever stock transformers would make up is refused here.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from engine.errors import ModelLoadError, first_line
from engine.names import find_folder

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER = "tokenizer.json"
_POINTER = b"version https://git-lfs"
_MOST_LISTED = 4
_LONGEST_NAME = 120
PADDING = 0.01
"""Families pad one vocabulary to different sizes; a larger difference is another tokenizer."""
_KNOWN_TOKENS = 0.99
"""Of the ids that two tokenizers share, how many must mean the same for one to draft for the other:
families add a few special tokens of their own."""

# What is beside the layers and says nothing of the text.
_IDLE = re.compile(
    r"(^|\.)(rotary(_pos)?_emb\.(inv_freq|(cos|sin)(_cached)?)|position_ids)$"  # angles, counts
    r"|(^|\.)((attn|attention)\.bias|masked_bias|causal_mask)$"  # masks
    r"|(^|\.)(k|v|kv)_scale$"  # of a cache in FP8
    r"|(^|\.)mtp([._]|$)"  # layers that guess ahead, left out by name for some families
    r"|^v_head\."  # a value head of reinforcement learning
    r"|^verifier_(lm_head|norm)\."  # a head's copies of its target's parts
)


def check_configuration(name: str) -> None:
    """Refuse a folder whose configuration is not what its name says.

    An id of the hub is not looked at: what was downloaded is whole. Raises ModelLoadError.
    """
    if (folder := find_folder(name)) is None:
        return
    read_json(folder / "config.json")
    if (generation := folder / "generation_config.json").exists():
        read_json(generation)


def check_files(name: str) -> None:
    """The same of its weights, which takes reading a pickle whole. Raises ModelLoadError."""
    folder = find_folder(name)
    if folder is None or "transformers_weights" in read_json(folder / "config.json"):
        return
    for file in _weight_files(folder):
        check_weights(file)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from its file. Raises ModelLoadError."""
    if not file.exists() and (file.parent / "adapter_config.json").exists():
        raise ModelLoadError(
            f"{str(file.parent)!r} is an adapter without its base model: merge them, and name the "
            "folder of what comes of it."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{str(file.parent)!r} holds no {file.name}: give the folder of a checkpoint in "
            "Hugging Face's layout."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{str(file)!r} cannot be read: {first_line(error)}. Download it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{str(file)!r} is not a JSON object. Download it again.")
    return content


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads, the first kind that is there."""
    for name in _WEIGHTS:
        if (file := folder / name).exists():
            return [file]
        if (index := folder / f"{name}.index.json").exists():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict):
                raise ModelLoadError(f"{str(index)!r} has no weight_map. Download it again.")
            return [folder / shard for shard in sorted(set(map(str, shards.values())))]
    raise ModelLoadError(
        f"{str(folder)!r} holds no weights: transformers reads {', '.join(_WEIGHTS)}, or their "
        "shards by an index."
    )


def check_weights(file: Path) -> None:
    """Refuse a file of weights that is missing, cut short, or a stand-in. Raises ModelLoadError."""
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_POINTER)) == _POINTER
        if is_pointer:
            raise ModelLoadError(
                f"{str(file)!r} is a git-lfs pointer, not the weights: run `git lfs pull` in its "
                "repository."
            )
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"the weights {str(file)!r} are missing, damaged or cut short "
            f"({first_line(error)}): download them again."
        ) from error
    if file.suffix != ".safetensors":
        _check_pickle(file)


def _check_pickle(file: Path) -> None:
    """Refuse a pickle that is damaged, or that would run code, before anything is read from it."""
    try:
        torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # whatever bytes that are no pickle may cause
        raise ModelLoadError(
            f"the weights {str(file)!r} are damaged, cut short, or a pickle of more than weights, "
            "of which nothing was run: choose a checkpoint in safetensors, or download them again."
        ) from error


def check_keys(
    name: str,
    kind: str,
    missing: Collection[str],
    left_over: Collection[str],
    mis_shaped: Collection[str],
    ahead: range = range(0),
) -> None:
    """Refuse weights that are not those of their configuration, which is of `kind`.

    The layers `ahead` guess further tokens and may be left over. Raises ModelLoadError.
    """
    left_over = [key for key in left_over if not _is_idle(key, ahead)]
    faults = {
        "missing": missing,
        "of another shape than config.json says": mis_shaped,
        "left over": left_over,
    }
    told = [f"{fault}: {abridged(keys)}" for fault, keys in faults.items() if keys]
    if told:
        raise ModelLoadError(
            f"the weights of {name!r} are not those of the {kind} that its config.json describes; "
            f"{'; '.join(told)}. Download it again, or name a checkpoint of that kind."
        )


def _is_idle(key: str, ahead: range) -> bool:
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    return _IDLE.search(key) is not None or (layer is not None and int(layer[1]) in ahead)


def abridged(keys: Collection[str]) -> str:
    """Names of weights as one short text, those of several layers together."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        first = re.search(r"(?<=\.)\d+(?=\.)", key)
        pattern = key if first is None else f"{key[: first.start()]}{{}}{key[first.end() :]}"
        numbers[pattern] |= set() if first is None else {int(first[0])}
    names = [_filled_in(pattern, sorted(found)) for pattern, found in sorted(numbers.items())]
    listed = ", ".join(name[:_LONGEST_NAME] for name in names[:_MOST_LISTED])
    num_more = len(names) - _MOST_LISTED
    return f"{listed} and {num_more} more" if num_more > 0 else listed


def _filled_in(pattern: str, numbers: list[int]) -> str:
    if not numbers:
        return pattern
    is_long = len(numbers) > _MOST_LISTED
    listed = f"{numbers[0]}..{numbers[-1]}" if is_long else ",".join(map(str, numbers))
    return pattern.replace("{}", listed if len(numbers) == 1 else f"{{{listed}}}", 1)


def check_numbers(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are not finite, and buffers that are no numbers.

    Raises ModelLoadError.
    """
    if wrong := {key: weight.dtype for key, weight in weights.items() if not _is_finite(weight)}:
        dtypes = {str(dtype).removeprefix("torch.") for dtype in wrong.values()}
        raise ModelLoadError(
            f"{name!r} has weights that are not finite numbers in {', '.join(sorted(dtypes))}: "
            f"{abridged(wrong)}. Download it again, or choose a wider dtype if it is sound."
        )


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return True
    # In one reading and no copy: a number that is not one is both the least and the greatest.
    ends = torch.stack(torch.aminmax(weight.detach()))
    # A buffer may be a bound that nothing reaches.
    is_sound = ends.isfinite() if isinstance(weight, nn.Parameter) else ~ends.isnan()
    return bool(is_sound.all())


def check_same_tokens(draft: str, target: str) -> None:
    """Refuse a draft or a head whose tokenizer gives ids another meaning than its target's.

    Where either has no tokenizer.json nothing is known. Raises ModelLoadError.
    """
    drafts, targets = _tokenizer_file(draft), _tokenizer_file(target)
    if drafts is None or targets is None or drafts.read_bytes() == targets.read_bytes():
        return
    ours, theirs = _tokens(targets), _tokens(drafts)
    shared = ours.keys() & theirs.keys()
    num_same = sum(ours[token_id] == theirs[token_id] for token_id in shared)
    if num_same < _KNOWN_TOKENS * len(shared):
        raise ModelLoadError(
            f"{draft!r} cannot draft: its tokenizer is another than the target's, of {len(shared)} "
            f"token ids {len(shared) - num_same} mean something else. Name a draft of the same "
            "family, or none."
        )


def _tokenizer_file(name: str) -> Path | None:
    try:
        if (folder := find_folder(name)) is not None:
            file = folder / _TOKENIZER
        elif isinstance(try_to_load_from_cache(name, "config.json"), str):
            file = Path(hf_hub_download(name, _TOKENIZER))
        else:  # a shape of random weights, which no hub need be asked for
            return None
    except Exception:  # whatever a hub may answer that is not there, or has no such file
        return None
    return file if file.is_file() else None


def _tokens(file: Path) -> dict[int, str]:
    try:
        vocabulary = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # the library raises nothing narrower
        raise ModelLoadError(f"{str(file)!r} cannot be read: {first_line(error)}.") from error
    return {token_id: token for token, token_id in vocabulary.items()}
