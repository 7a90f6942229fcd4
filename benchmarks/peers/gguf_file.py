"""Llama checkpoints of Hugging Face as GGUF files.

llama.cpp rotates neighbouring rows of a head where Hugging Face rotates its two halves, so the
rows of q and k change places, as in llama.cpp's own `convert_hf_to_gguf.py`. There is no
vocabulary in the file: ids go in and out.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TensorNameMap
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.peers.permutation import permuted

Weights = NDArray[np.float32]

_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}


def gguf_file(checkpoint: Path, precision: str, folder: Path) -> Path:
    """The file of a checkpoint in one of `_FILE_TYPES`, written to `folder` if it is not there.

    Of a GGUF file llama.cpp itself makes it. Raises ValueError for any other checkpoint but a Llama
    with plain rotary positions and no biases.
    """
    name = f"{checkpoint.stem}-{_fingerprint(checkpoint)}-{precision}.gguf"
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun = path.with_suffix(f".{os.getpid()}")
        write = _requantize if checkpoint.suffix == ".gguf" else _write
        write(checkpoint, precision, begun)
        begun.replace(path)
    return path


def _fingerprint(checkpoint: Path) -> str:
    """Changes with the weights, so that a file of older ones is not taken for theirs."""
    is_file = checkpoint.is_file()
    files = [checkpoint] if is_file else sorted(checkpoint.resolve().glob("*.safetensors"))
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _requantize(file: Path, precision: str, path: Path) -> None:
    """By llama.cpp; weights that the file holds in another form are widened first."""
    import llama_cpp  # here, since a file is written without it too

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(_FILE_TYPES[precision])
    params.allow_requantize = True
    status = llama_cpp.llama_model_quantize(str(file).encode(), str(path).encode(), params)
    if status:
        raise RuntimeError(f"llama.cpp cannot write {file.name} in {precision}")


def _write(checkpoint: Path, precision: str, path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    _check(config)
    writer = GGUFWriter(path, "llama")
    _add_shape(writer, config)
    writer.add_file_type(_FILE_TYPES[precision])
    for name, weights in _tensors(checkpoint, config):
        kind = _kind(weights, precision)
        writer.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(config: Mapping[str, Any]) -> None:
    has_biases = config.get("attention_bias") or config.get("mlp_bias")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    is_plain = rope.get("rope_type", "default") == "default"
    if config["model_type"] != "llama" or has_biases or not is_plain:
        raise ValueError("only a Llama with plain rotary positions and no biases can be written")


def _add_shape(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    head_size = _head_size(config)
    rope = config.get("rope_parameters") or {}
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("no_vocab")


def _head_size(config: Mapping[str, Any]) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size


def _tensors(checkpoint: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Weights]]:
    """Every weight under its name in GGUF; a tied output is left out, as llama.cpp wants it."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            weights = tensor.float().numpy()
            if "q_proj" in name:
                weights = permuted(weights, config["num_attention_heads"])
            elif "k_proj" in name:
                weights = permuted(weights, config["num_key_value_heads"])
            yield gguf_name(name, names), weights


def gguf_name(name: str, names: TensorNameMap) -> str:
    """A weight's name in GGUF; raises ValueError for one that llama.cpp has no place for."""
    found: str | None = names.get_name(name, try_suffixes=(".weight",))
    if found is None:
        raise ValueError(f"{name} has no name in GGUF")
    return found


def _kind(weights: Weights, precision: str) -> GGMLQuantizationType:
    """Vectors stay in F32, and so do rows that the blocks of a quantisation do not divide."""
    kind = GGMLQuantizationType[precision]
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    fits = weights.ndim > 1 and weights.shape[-1] % block_size == 0
    return kind if fits else GGMLQuantizationType.F32
