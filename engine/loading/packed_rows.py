"""Packed weights that have been read: codes with scales and zeros, or numbers with scales."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import ModelLoadError
from engine.kernels.dots import GROUP, Codes
from engine.loading.stored import Rows

_LARGEST = 127
"""Of our codes in 8 bits, of either sign."""
_PRECISE = 2.0**-10
"""By how much a scale may change in half precision."""


class Affine(Rows):
    """scale * (code - zero), of codes (out, in) by groups of inputs.

    `scales` and `zeros` are (out, groups), which may have one of the `sizes`; `order` says of which
    group each input is, if inputs that are side by side are not in one.
    """

    def __init__(
        self,
        values: Tensor,
        scales: Tensor,
        zeros: Tensor,
        bits: int,
        sizes: Sequence[int],
        order: Tensor | None = None,
    ) -> None:
        self.bits = bits
        self._values, self._scales, self._zeros = values, scales, zeros
        self._size = _size(values.shape[1], scales.shape[1], sizes)
        in_turn = torch.arange(values.shape[1]) // self._size
        # A file that needs no order may have one all the same, or one of nothing.
        is_ordered = order is not None and int(order.min()) >= 0
        self._groups = order.long() if order is not None and is_ordered else in_turn
        self._is_in_turn = torch.equal(self._groups, in_turn)

    def plain(self, rows: slice = slice(None)) -> Tensor:
        """The numbers that rows stand for, in float32."""
        zeros = self._zeros[rows].float()[:, self._groups]
        return (self._values[rows] - zeros) * self._scales[rows].float()[:, self._groups]

    def codes(self) -> Codes | None:
        """The same, if groups are whole ones of ours, and scales are in half precision near enough.

        Codes of 8 bits must have their zero in the middle.
        """
        num_inputs = self._values.shape[1]
        is_whole = self._size % GROUP == 0 or self._size >= num_inputs
        scales = self._scales.float()
        halves = scales.half().float()
        if not (self._is_in_turn and is_whole):
            return None
        if ((halves - scales).abs() > _PRECISE * scales.abs()).any():
            return None
        groups = torch.arange(0, num_inputs, GROUP) // self._size
        halves = halves[:, groups].half()
        if self.bits == 4:
            minima = -(self._zeros.float() * scales)[:, groups]
            return Codes(self._values.to(torch.uint8), halves, minima.half())
        centred = self._values.short()
        if (zero := self._zeros.flatten()[:1]).item():
            centred = centred - zero.short()
        if (self._zeros != zero).any() or centred.max() > _LARGEST or centred.min() < -_LARGEST - 1:
            return None
        return _within_reach(centred, halves)


def _within_reach(values: Tensor, halves: Tensor) -> Codes:
    """Codes of 8 bits, where groups with one of -128, which ours do without, are rounded anew."""
    size = values.shape[1]
    groups = torch.nn.functional.pad(values, (0, -size % GROUP)).view(*halves.shape, GROUP)
    is_beyond = groups.amin(-1) < -_LARGEST
    share = torch.where(is_beyond, _LARGEST / (_LARGEST + 1), 1.0)
    codes = (groups * share[..., None]).round().to(torch.int8).flatten(1)
    return Codes(codes[:, :size].contiguous(), (halves.float() / share).half(), None)


class Scaled(Rows):
    """Numbers of 8 bits, and a scale for each block of them."""

    def __init__(self, values: Tensor, scales: Tensor, block: tuple[int, int] | None) -> None:
        """Raises ModelLoadError for as many scales as are in no such blocks, rows or whole."""
        self._values = values
        out, size = values.shape
        self._scales = scales.float() if scales.dim() > 1 else scales.float().reshape(-1, 1)
        high, wide = self._scales.shape
        if block and not (_fits(out, high, block[0]) and _fits(size, wide, block[1])):
            raise ModelLoadError(
                f"a layer of {out} by {size} weights has {high} by {wide} scales, which are not "
                f"those of blocks of {block[0]} by {block[1]}: download it again."
            )
        tall, broad = [block[0]] if block else [], [block[1]] if block else []
        self._block = _size(out, high, tall), _size(size, wide, broad)

    def plain(self, rows: slice = slice(None)) -> Tensor:
        """The numbers that rows stand for, in float32."""
        high, wide = self._block
        out, size = self._values.shape
        of_rows = (torch.arange(out) // high)[rows]
        of_inputs = torch.arange(size) // wide
        return self._values[rows].float() * self._scales[of_rows][:, of_inputs]


def _fits(num_numbers: int, num_blocks: int, size: int) -> bool:
    """Whether there are as many blocks as such a size makes; or one for all, or each its own."""
    return num_blocks in (-(-num_numbers // size), 1, num_numbers)


def _size(num_numbers: int, num_blocks: int, sizes: Sequence[int]) -> int:
    """What parts so many numbers into so many blocks: of the sizes that are given, if one does.

    A file need not keep to them, as with one scale for a whole row.
    """
    fitting = (size for size in sizes if size > 0 and -(-num_numbers // size) == num_blocks)
    return next(fitting, -(-num_numbers // num_blocks))


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Words of 32 bits (rows, words) as the codes (rows, codes) in them, the lowest bits first."""
    octets = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    codes: Tensor = (octets[..., None] >> shifts) & (2**bits - 1)
    return codes.flatten(1)
