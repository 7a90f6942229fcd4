"""What a GGUF file says of its model: the configuration, and where which tensor lies.

transformers makes a configuration of what the file says; what it leaves out is added here, or
refused: a model that is rotated otherwise than it was trained writes almost, and not quite, sense.
"""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from transformers import AutoConfig, PretrainedConfig

from engine.errors import ModelLoadError

ARCHITECTURES = ("gemma2", "gemma3", "llama", "phi3", "qwen2", "qwen3")
"""Whose files are read: tests compare each with the checkpoint that a file was made of."""
FACTORS = "rope_freqs.weight"
"""What Llama 3 divides its frequencies by: no weight of a network, but a part of its rope."""
_NUMBERS = {"BF16": "bfloat16", "F16": "float16"}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_LENGTHS = (8192, 4096, 16384)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file: its blocks' kind, its shape as torch has it, and where its bytes lie."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, of which this is the table: the configuration lies beside."""

    architecture: str
    tensors: tuple[StoredTensor, ...]

    def to_json(self) -> dict[str, Any]:
        """For a file of its own."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Contents":
        """The same again."""
        tensors = ({**each, "shape": tuple(each["shape"])} for each in given["tensors"])
        return cls(given["architecture"], tuple(StoredTensor(**each) for each in tensors))


def read(file: Path) -> tuple[PretrainedConfig, Contents]:
    """The configuration of the model of a file, and its table. Raises ModelLoadError."""
    reader = _open(file)
    architecture = str(_fact(reader, "general.architecture"))
    if architecture not in ARCHITECTURES:
        raise ModelLoadError(
            f"{str(file)!r} holds a model of the architecture {architecture!r}, and GGUF files are "
            f"read of {', '.join(ARCHITECTURES)}: name the same model in Hugging Face's layout."
        )
    if (_fact(reader, "split.count") or 1) > 1:
        raise ModelLoadError(
            f"{str(file)!r} is one of several parts: put them together with llama.cpp's "
            "`llama-gguf-split --merge`, and name the whole."
        )
    tensors = tuple(_tensor(each) for each in reader.tensors)
    for kind in {each.kind for each in tensors}:
        _check_readable(file, kind)
    config = AutoConfig.from_pretrained(
        str(file.parent), gguf_file=file.name, trust_remote_code=False
    )
    _complete(file, config, reader, architecture)
    kinds = {each.kind for each in tensors}
    config.dtype = next((dtype for kind, dtype in _NUMBERS.items() if kind in kinds), "float32")
    if config.dtype == "float32" and kinds != {"F32"}:
        config.dtype = "bfloat16"  # where blocks are no precision, as on a GPU
    return config, Contents(architecture, tensors)


def _open(file: Path) -> GGUFReader:
    try:
        return GGUFReader(file)
    except ValueError as error:
        if GGMLQuantizationType.__name__ in str(error):
            *_, number = re.findall(r"\d+", str(error).partition(" ")[0])
            raise ModelLoadError(_unreadable(file, f"of the number {number}")) from error
        raise


def _check_readable(file: Path, kind: str) -> None:
    quantisation = GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[quantisation]
    try:
        gguf.dequantize(np.zeros((1, size), np.uint8), quantisation)
    except NotImplementedError as error:
        raise ModelLoadError(_unreadable(file, kind)) from error


def _unreadable(file: Path, kind: str) -> str:
    return (
        f"{str(file)!r} has weights in a quantisation {kind} that is not read here: choose a file "
        "in Q4_0, Q4_1, Q4_K_M or Q8_0."
    )


def _tensor(found: gguf.ReaderTensor) -> StoredTensor:
    shape = tuple(int(size) for size in reversed(found.shape))
    kind, offset, num_bytes = found.tensor_type.name, found.data_offset, found.n_bytes
    return StoredTensor(found.name, kind, shape, int(offset), int(num_bytes))


def _fact(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _complete(file: Path, config: Any, reader: GGUFReader, architecture: str) -> None:
    """Add to a configuration what transformers does not read of the file. Raises ModelLoadError."""
    facts = {key: _fact(reader, f"{architecture}.{key}") for key in _KEYS}
    size = facts["attention.key_length"] or config.hidden_size // config.num_attention_heads
    if hasattr(config, "head_dim"):
        config.head_dim = size
    if (window := facts["attention.sliding_window"]) and hasattr(config, "sliding_window"):
        config.sliding_window = window
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if facts[cap]:
            setattr(config, cap, facts[cap])
    if hasattr(config, "query_pre_attn_scalar"):
        # No file says it: as llama.cpp has it, by the number of layers of the largest Gemmas.
        is_by_width = config.num_hidden_layers == _LAYERS_BY_WIDTH[architecture]
        width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = width if is_by_width else config.head_dim
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    if (base := facts["rope.freq_base"]) is not None:
        rope["rope_theta"] = base
    if (rotated := facts["rope.dimension_count"] or size) != size:
        if architecture not in _ROTATED_IN_PART:
            raise ModelLoadError(
                f"{str(file)!r} rotates {rotated} of the {size} numbers of a head, which is not "
                f"done here for {architecture}: name the same model in Hugging Face's layout."
            )
        rope["partial_rotary_factor"] = rotated / size
    scaling = facts["rope.scaling.type"] or "none"
    if scaling in ("linear", "yarn"):
        rope |= {"rope_type": scaling, "factor": facts["rope.scaling.factor"] or 1.0}
    if scaling == "yarn":
        length = facts["rope.scaling.original_context_length"]
        rope["original_max_position_embeddings"] = length or config.max_position_embeddings
    named = {each.name: each for each in reader.tensors}
    if FACTORS in named and scaling == "none":
        factors = np.array(named[FACTORS].data, np.float64)
        scaling = "none" if _scale_as_llama3(config, rope, factors) else "its own"
    if scaling not in ("none", "linear", "yarn") or any("rope_factors" in name for name in named):
        raise ModelLoadError(
            f"{str(file)!r} scales its rotary positions in a way ({scaling}) that is not read from "
            "GGUF files: name the same model in Hugging Face's layout."
        )
    ends = ("eos_token_id", "eot_token_id", "eom_token_id")
    ids = [_fact(reader, f"tokenizer.ggml.{end}") for end in ends]
    config.eos_token_id = [*dict.fromkeys(each for each in ids if each is not None)]


_ROTATED_IN_PART = ("phi3",)
_LAYERS_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
_KEYS = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention.key_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
)


def _scale_as_llama3(config: Any, rope: dict[str, Any], factors: Any) -> bool:
    """Whether there are parameters of Llama 3's scaling that give these factors; they are set.

    A file keeps what they come to and not the parameters: the factor is the largest.
    """
    size = 2 * len(factors)
    frequencies = rope["rope_theta"] ** (-np.arange(0, size, 2) / size)
    factor, low, high = float(factors.max()), *_LLAMA3.values()
    for length in _LLAMA3_LENGTHS:
        turns = length * frequencies / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        if np.allclose(1 / factors, (1 - share) / factor + share, rtol=1e-4):
            lengths = {"original_max_position_embeddings": length}
            rope |= {"rope_type": "llama3", "factor": factor, **_LLAMA3, **lengths}
            return True
    return False
