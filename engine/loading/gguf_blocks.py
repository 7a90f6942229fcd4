"""Blocks of GGUF as the codes of our products: those that are alike are taken as they are."""

from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels.dots import GROUP, Codes
from engine.loading.stored import NUMBERS, Rows

_IN_4_BITS = ("Q4_0", "Q4_1", "Q4_K")
_NUMBERS = ("F32", "F16", "BF16")
_OTHERS = 5
"""Bits, as far as it matters: of blocks that our groups do not hold."""
_LEAST = -128
"""Of int8, which our codes do without."""


def bits_of(kind: str) -> int:
    """Of a weight in blocks of a kind; one number for all that our groups cannot hold."""
    known = {"Q8_0": 8, **dict.fromkeys(_IN_4_BITS, 4), **dict.fromkeys(_NUMBERS, NUMBERS)}
    return known.get(kind, _OTHERS)


class Blocks(Rows):
    """Rows of bytes (out, bytes) in blocks of a kind.

    In 4 or 8 bits blocks of 32 are what our groups are: nothing is rounded but the scales of Q4_K,
    to half precision.
    """

    def __init__(self, rows: NDArray[Any], kind: str) -> None:
        self.bits = bits_of(kind)
        self._rows, self._kind = rows, kind

    def plain(self, rows: slice = slice(None)) -> Tensor:
        """The numbers that they stand for, in float32."""
        values = gguf.dequantize(self._rows[rows], GGMLQuantizationType[self._kind])
        return torch.from_numpy(np.array(values, np.float32))

    def codes(self) -> Codes | None:
        """The same."""
        of_blocks = _OF_BLOCKS.get(self._kind)
        return None if of_blocks is None else of_blocks(self._rows)


def _of_q8_0(rows: NDArray[Any]) -> Codes | None:
    """Nothing, if one of them is of a size that has no opposite."""
    scales, values = _parts(rows, 2 + GROUP, 2)
    codes = _joined(values.view(np.int8))
    return Codes(codes, _halves(scales), None) if int(codes.min()) > _LEAST else None


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


_OF_BLOCKS = {"Q8_0": _of_q8_0, "Q4_0": _of_q4_0, "Q4_1": _of_q4_1, "Q4_K": _of_q4_k}


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
