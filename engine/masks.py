"""Who sees whom in one pass, for layers of every window: as kernels read it, and written out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.errors import ModelLoadError
from engine.kernels.sight import Sight


class Extent(NamedTuple):
    """So many consecutive rows of a pass, of one text, read the cache's rows `first` to `end`."""

    num_rows: int
    first: int
    end: int


class Share(NamedTuple):
    """What an extent sees: `mask` (1, 1, rows, end - first) is to be added to its scores."""

    extent: Extent
    mask: Tensor


class TreeMasks(Protocol):
    """Who sees whom in one pass, for a layer of any window."""

    def shares(self, window: int | None, length: int, dtype: torch.dtype) -> Sequence[Share]:
        """The masks of all rows over a cache of `length` rows, in their order."""


@dataclass(frozen=True, slots=True)
class DenseMasks:
    """The same for layers of every kind, written out, as training has it: (1, 1, rows, length)."""

    mask: Tensor

    def shares(self, window: int | None, length: int, dtype: torch.dtype) -> Sequence[Share]:
        """The mask."""
        return [Share(Extent(self.mask.shape[2], 0, length), self.mask)]


@dataclass(slots=True, eq=False)
class PackedMasks:
    """Masks of one pass over a cache, by row as in a `Sight`.

    `visible` are for layers that have no window, `windowed` for those whose window is `window`
    positions wide. Without `extents` they are written out over the whole cache.
    """

    places: Tensor
    visible: Tensor
    windowed: Tensor
    window: int = 0
    extents: Sequence[Extent] | None = None
    _written_out: dict[int | None, list[Share]] = field(default_factory=dict)

    def sight(self, window: int | None) -> Sight:
        """For a layer of this window. Raises ModelLoadError if it is not the model's."""
        if window is None:
            return Sight(self.places, self.visible)
        if window != self.window:
            raise ModelLoadError(
                f"a layer has a window of {window} positions, its model one of "
                f"{self.window}: models with several window sizes are not supported."
            )
        return Sight(self.places, self.windowed, window)

    def shares(self, window: int | None, length: int, dtype: torch.dtype) -> Sequence[Share]:
        """Written out once for all layers of a window."""
        if window not in self._written_out:
            shares, end = [], 0
            for extent in self.extents or [Extent(self.visible.shape[0], 0, length)]:
                start, end = end, end + extent.num_rows
                seen = self._seen(window, extent, start)
                mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
                shares.append(Share(extent, mask.masked_fill(~seen, -math.inf)[None, None]))
            self._written_out[window] = shares
        return self._written_out[window]

    def _seen(self, window: int | None, extent: Extent, start: int) -> Tensor:
        """Whether each row of an extent, from row `start` on, sees each it reads: (rows, read)."""
        places, bits, _ = self.sight(window)
        rows = slice(start, start + extent.num_rows)
        position, first, prefix = places[:, rows, None]
        if self.extents is not None:  # of one text
            first, prefix = first[:1], prefix[:1]
        row = torch.arange(extent.first, extent.end, device=bits.device)
        behind = row - prefix
        column = behind.clamp(0, 8 * bits.shape[1] - 1)
        byte = (column >> 3).expand(extent.num_rows, -1)
        is_set = (bits[rows].gather(1, byte) >> (column & 7)) & 1
        near = (behind < 0) & (row >= first)
        if window is not None:
            near = near & (position - (row - first) < window)
        return torch.where(behind < 0, near, is_set.bool() & (behind == column))
