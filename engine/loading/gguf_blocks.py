"""Blocks of GGUF as the codes of our products: those that are alike are taken as they are."""

from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels.dots import GROUP, Codes, quantise
from engine.weights import BITS, INT4, INT8

_IN_4_BITS = ("Q4_0", "Q4_1", "Q4_K")
_NUMBERS = ("F32", "F16", "BF16")
_LEAST = -128
"""Of int8, which our codes do without."""


def plain(rows: NDArray[Any], kind: str) -> Tensor:
    """Rows of bytes (..., bytes), or of numbers, as the numbers (..., in) that they stand for."""
    values = gguf.dequantize(rows, GGMLQuantizationType[kind])
    return torch.from_numpy(np.array(values, np.float32))


def codes_of(rows: NDArray[Any], kind: str, precision: str, keeps_bits: bool) -> Codes:
    """Rows of bytes (out, bytes) as codes of a precision.

    In 4 bits, or in 8 and not to be rounded to 4, blocks of 32 are what our groups are: nothing is
    rounded but the scales of Q4_K, to half precision. Plain numbers, and Q8_0, are rounded to the
    bits of the precision, unless it `keeps_bits`: then to no less than 8. What has 5, 6, or fewer
    than 4 bits is widened to 8.
    """
    if kind in _IN_4_BITS:
        return _OF_BLOCKS[kind](rows)
    if kind == "Q8_0" and (precision == INT8 or keeps_bits):
        codes = _of_q8_0(rows)
        if int(codes.values.min()) > _LEAST:
            return codes
    is_widened = keeps_bits or kind not in (*_NUMBERS, "Q8_0")
    return quantise(plain(rows, kind), 8 if is_widened else BITS[precision])


def precision_of(num_weights: dict[str, int]) -> str | None:
    """In which precision a file is, of which so many weights of matrices are of each kind.

    None for plain numbers.
    """
    most = max(num_weights, key=lambda kind: num_weights[kind])
    return None if most in _NUMBERS else INT4 if most in _IN_4_BITS else INT8


def _of_q8_0(rows: NDArray[Any]) -> Codes:
    scales, values = _parts(rows, 2 + GROUP, 2)
    return Codes(_joined(values.view(np.int8)), _halves(scales), None)


def _of_q4_0(rows: NDArray[Any]) -> Codes:
    scales, nibbles = _parts(rows, 2 + GROUP // 2, 2)
    return Codes(_unfolded(nibbles), _halves(scales), _halves(scales) * -8)


def _of_q4_1(rows: NDArray[Any]) -> Codes:
    scales, minima, nibbles = _parts(rows, 4 + GROUP // 2, 2, 4)
    return Codes(_unfolded(nibbles), _halves(scales), _halves(minima))


def _of_q4_k(rows: NDArray[Any]) -> Codes:
    """Eight groups share two numbers, of which each has its part in 6 bits."""
    scale, minimum, parts, nibbles = _parts(rows, 144, 2, 4, 16)
    scales, minima = gguf.quants.Q4_K.get_scale_min(parts.reshape(-1, 12))
    of_groups = [
        _halves(whole)[..., None].float() * torch.from_numpy(part).view(*whole.shape[:2], 8)
        for whole, part in ((scale, scales), (minimum, minima))
    ]
    halves = [part.flatten(1).half() for part in of_groups]
    in_pairs = nibbles.reshape(len(rows), -1, 4, GROUP)
    both = np.stack([in_pairs & 15, in_pairs >> 4], -2)
    return Codes(torch.from_numpy(both.reshape(len(rows), -1).copy()), halves[0], -halves[1])


_OF_BLOCKS = {"Q4_0": _of_q4_0, "Q4_1": _of_q4_1, "Q4_K": _of_q4_k}


def _parts(rows: NDArray[Any], size: int, *places: int) -> list[NDArray[Any]]:
    """Blocks of so many bytes (out, blocks, ...), cut at these places."""
    return np.split(rows.reshape(len(rows), -1, size), places, axis=-1)


def _halves(part: NDArray[Any]) -> Tensor:
    """Two bytes of each block as a number of half precision: (out, blocks)."""
    return torch.from_numpy(np.ascontiguousarray(part).view(np.float16)[..., 0].copy())


def _joined(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values).reshape(len(values), -1).copy())


def _unfolded(nibbles: NDArray[Any]) -> Tensor:
    """The low halves of a block's bytes are its first codes, the high ones its last."""
    return _joined(np.concatenate([nibbles & 15, nibbles >> 4], axis=-1))
