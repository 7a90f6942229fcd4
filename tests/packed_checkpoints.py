"""Checkpoints of tiny random models as others quantise them, packed by loops as their code packs.

The codes are random, since only what they stand for matters: the network takes those numbers, so
that it is the one that the files hold.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.checkpoints import make_network

GROUP = 32
SHAPE = {"hidden_size": 64, "intermediate_size": 128}
Packed = tuple[dict[str, Tensor], Tensor]
"""A layer's tensors by the last parts of their names, and the weight (out, in) that they are."""


def words(codes: NDArray[Any], bits: int, order: Sequence[int] | None = None) -> Tensor:
    """Codes (rows, n) in words of 32 bits; in place i of each is the `order[i]`-th of its codes."""
    num = 32 // bits
    packed = np.zeros((len(codes), codes.shape[1] // num), np.uint32)
    for word in range(packed.shape[1]):
        for place in range(num):
            at = word * num + (order[place] if order else place)
            packed[:, word] |= codes[:, at].astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(packed.view(np.int32))


def gptq(
    generator: np.random.Generator, out: int, size: int, bits: int = 4, **about: Any
) -> Packed:
    """Words below one another, and one less than the zeros, unless it is of the second version."""
    codes, scales, zeros = _affine(generator, out, size, bits)
    order = np.arange(size) // GROUP
    if about.get("desc_act"):
        order = generator.permutation(order)
    weight = (codes.astype(np.int32) - zeros[:, order]) * scales.astype(np.float32)[:, order]
    below = 0 if about.get("checkpoint_format") == "gptq_v2" else 1
    parts = {
        "qweight": words(codes, bits).T.contiguous(),
        "qzeros": words((zeros - below).T % 2**bits, bits),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.from_numpy(order.astype(np.int32)),
    }
    return parts, torch.from_numpy(weight)


def awq(generator: np.random.Generator, out: int, size: int, **about: Any) -> Packed:
    """Words side by side along the outputs, whose even ones come first."""
    codes, scales, zeros = _affine(generator, out, size, 4)
    order = np.arange(size) // GROUP
    weight = (codes.astype(np.int32) - zeros[:, order]) * scales.astype(np.float32)[:, order]
    places = (0, 2, 4, 6, 1, 3, 5, 7)
    parts = {
        "qweight": words(codes.T, 4, places),
        "qzeros": words(zeros.T, 4, places),
        "scales": torch.from_numpy(scales.T.copy()),
    }
    return parts, torch.from_numpy(weight)


def in_words(
    generator: np.random.Generator, out: int, size: int, bits: int = 4, **about: Any
) -> Packed:
    """compressed-tensors' `pack-quantized`: codes of a sign, to which half of their range is added.

    Zeros, if there are any, are in words below one another.
    """
    codes, scales, zeros = _affine(generator, out, size, bits)
    half = 2 ** (bits - 1)
    if about.get("symmetric", True):
        zeros = np.full_like(zeros, half)
    signed, zero_points = codes.astype(np.int32) - half, zeros.astype(np.int32) - half
    order = np.arange(size) // GROUP
    weight = (signed - zero_points[:, order]) * scales.astype(np.float32)[:, order]
    parts = {
        "weight_packed": words(codes, bits),
        "weight_scale": torch.from_numpy(scales),
        "weight_shape": torch.tensor([out, size]),
    }
    if not about.get("symmetric", True):
        parts["weight_zero_point"] = words(zeros.T, bits).T.contiguous()
    return parts, torch.from_numpy(weight)


def in_bytes(generator: np.random.Generator, out: int, size: int, **about: Any) -> Packed:
    """compressed-tensors' `int-quantized`: a scale for each output."""
    codes = generator.integers(-127, 128, (out, size)).astype(np.int8)
    codes[0, 0] = -128
    scales = torch.from_numpy(generator.uniform(0.001, 0.002, (out, 1))).bfloat16()
    weight = torch.from_numpy(codes).float() * scales.float()
    return {"weight": torch.from_numpy(codes), "weight_scale": scales}, weight


def in_floats(generator: np.random.Generator, out: int, size: int, **about: Any) -> Packed:
    """compressed-tensors' `float-quantized`: a scale for each output, and one that inputs need."""
    values = torch.from_numpy(generator.normal(0, 100, (out, size))).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(generator.uniform(0.001, 0.002, (out, 1))).bfloat16()
    parts = {"weight": values, "weight_scale": scales, "input_scale": torch.ones(1)}
    return parts, values.float() * scales.float()


def in_blocks(generator: np.random.Generator, out: int, size: int, **about: Any) -> Packed:
    """FP8 as DeepSeek publishes it, with one scale for a block, of which the last are not whole."""
    values = torch.from_numpy(generator.normal(0, 100, (out, size))).to(torch.float8_e4m3fn)
    high, wide = about["weight_block_size"]
    scales = torch.from_numpy(generator.uniform(0.001, 0.002, (-(-out // high), -(-size // wide))))
    scales = scales.float()
    weight = torch.empty(out, size)
    for i in range(out):
        for j in range(size):
            weight[i, j] = values[i, j].float() * scales[i // high, j // wide]
    return {"weight": values, about.get("leaf", "weight_scale_inv"): scales}, weight


def in_numbers(generator: np.random.Generator, out: int, size: int, **about: Any) -> Packed:
    """Rounded as if it were in 8 bits, and kept in 16, with the scales that are in it already."""
    values = torch.from_numpy(generator.normal(0, 0.1, (out, size))).bfloat16()
    return {"weight": values, "weight_scale": torch.full((out, 1), 0.5)}, values.float()


def _affine(
    generator: np.random.Generator, out: int, size: int, bits: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    codes = generator.integers(1 if bits == 8 else 0, 2**bits, (out, size)).astype(np.uint8)
    codes[0, 0] = 0  # which in 8 bits has no opposite, and is rare
    scales = generator.uniform(0.2, 0.4, (out, size // GROUP)) / 2**bits
    zeros = generator.integers(1, 2**bits, scales.shape).astype(np.int32)
    return codes, scales.astype(np.float16), zeros


def compressed(kind: str, **weights: Any) -> dict[str, Any]:
    """What a configuration says of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
_GPTQ_V2 = {**_GPTQ, "checkpoint_format": "gptq_v2"}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
FORMATS: Mapping[str, tuple[Callable[..., Packed], dict[str, Any], dict[str, Any]]] = {
    "gptq": (gptq, _GPTQ, {}),
    "gptq_v2": (gptq, _GPTQ_V2, {}),
    "gptq_v2 by its other name": (gptq, {**_GPTQ, "format": "GPTQ_V2"}, _GPTQ_V2),
    "gptq in 8 bits": (gptq, {**_GPTQ, "bits": 8}, {}),
    "gptq in order": (gptq, {**_GPTQ, "desc_act": True}, {}),
    "awq": (awq, _AWQ, {}),
    "words of 4 bits": (in_words, compressed("pack-quantized", num_bits=4, group_size=GROUP), {}),
    "words of 8 bits": (
        in_words,
        compressed("pack-quantized", num_bits=8, group_size=GROUP),
        {"bits": 8},
    ),
    "words with zeros": (
        in_words,
        compressed("pack-quantized", num_bits=4, group_size=GROUP),
        {"symmetric": False},
    ),
    "bytes": (in_bytes, compressed("int-quantized", num_bits=8), {}),
    "floats": (in_floats, compressed("float-quantized", num_bits=8), {}),
    "blocks": (in_blocks, {"quant_method": "fp8", "weight_block_size": [48, 48]}, {}),
    "blocks in a word": (
        in_blocks,
        compressed("float-quantized", num_bits=8, block_structure="48x48"),
        {"weight_block_size": [48, 48], "leaf": "weight_scale"},
    ),
    "numbers": (in_numbers, compressed("dense", num_bits=8), {}),
    "numbers beside fp8": (in_numbers, {"quant_method": "fp8"}, {}),
}
"""By name: who packs, what the configuration says, and what else who packs must know."""
KEPT = {
    "gptq": 4,
    "gptq_v2": 4,
    "gptq_v2 by its other name": 4,
    "awq": 4,
    "words of 4 bits": 4,
    "words of 8 bits": 8,
    "words with zeros": 4,
    "bytes": 8,
}
"""In how many bits codes are taken as they are."""
IN_8_BITS = ("gptq in 8 bits", "words of 8 bits", "bytes")
PLAIN = ("floats", "blocks", "blocks in a word", "numbers", "numbers beside fp8")
"""In numbers, and none of codes."""


def save(folder: Path, kind: str, **shape: Any) -> PreTrainedModel:
    """Write such a checkpoint; returns the network that it is."""
    pack, about, more = FORMATS[kind]
    network = make_network(**{**SHAPE, **shape})
    generator = np.random.default_rng(0)
    tensors: dict[str, Tensor] = {}
    for key, weight in network.named_parameters():
        if "_proj." not in key:
            tensors[key] = weight.detach().clone()
            continue
        parts, plain = pack(generator, *weight.shape, **{**about, **more})
        weight.data = plain
        path = key.removesuffix(".weight")
        tensors |= {f"{path}.{leaf}": part.contiguous() for leaf, part in parts.items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = network.config.to_dict() | {"quantization_config": about}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return network


_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the codes of a number in 4 bits stand for; the fourth bit is the sign."""


def save_experts(folder: Path) -> PreTrainedModel:
    """A network of gpt-oss whose experts are in MXFP4: a power of two for each 32 of an output."""
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16}
    network = make_network("gpt_oss", **SHAPE, **experts)
    network.save_pretrained(folder)
    generator = np.random.default_rng(0)
    levels = np.array([*_LEVELS, *(-level for level in _LEVELS)], np.float32)
    weights = {key: weight.contiguous() for key, weight in network.state_dict().items()}
    for key in [key for key in weights if key.endswith("_proj") and ".experts." in key]:
        number, size, out = weights.pop(key).shape
        codes = generator.integers(0, 16, (number, out, size // GROUP, GROUP), np.uint8)
        scales = generator.integers(120, 126, codes.shape[:-1], np.uint8)
        weights[f"{key}_blocks"] = torch.from_numpy(codes[..., ::2] | codes[..., 1::2] << 4)
        weights[f"{key}_scales"] = torch.from_numpy(scales)
        numbers = np.ldexp(levels[codes], scales[..., None].astype(int) - 127)
        plain = torch.from_numpy(numbers.reshape(number, out, size)).transpose(1, 2)
        network.get_parameter(key).data = plain.contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    return network
