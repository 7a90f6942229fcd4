"""Who descends from whom among the rows of a pass, and where their changes lie: text by text.

All is made of tensors, so that a pass is a function that can be compiled. Only how many texts and
rows there are must be known before, which the host finds out (`Grouping`). Texts are batched, each
padded to as many rows as the one that has most.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.geometry import MAX_STATE_ROWS


class Sizes(NamedTuple):
    """Texts in a pass, rows of it that one of them has, and rows that were scored before it."""

    texts: int
    rows: int
    earlier: int


class Grouping(NamedTuple):
    """The rows of a pass by their texts, int64.

    `own` (texts, rows) are numbers of rows in the pass, in each line one after another; what a text
    has too few is filled with its first. `earlier` are 0, 1, ... up to the most rows of the same
    tree, one at least, that were scored before.
    """

    own: Tensor
    earlier: Tensor

    @classmethod
    def of(cls, slots: Sequence[int], prefixes: Sequence[int], sizes: Sizes | None) -> "Grouping":
        """Of rows in these slots of the cache, behind committed ones that end there.

        If sizes are given, of these: lines of the last text are repeated.
        """
        starts = [row for row, end in enumerate(prefixes) if row == 0 or end != prefixes[row - 1]]
        counts = np.diff([*starts, len(slots)])
        num_earlier = max(slots[row] - prefixes[row] for row in starts)
        sizes = sizes or Sizes(len(starts), max(counts), max(1, num_earlier))
        texts = [*range(len(starts)), *[len(starts) - 1] * (sizes.texts - len(starts))]
        column = np.arange(sizes.rows)
        own = np.where(column < counts[texts, None], column, 0) + np.array(starts)[texts, None]
        return cls(torch.from_numpy(own), torch.arange(sizes.earlier))


class Paths(NamedTuple):
    """Where inputs of a convolution of one size lie, among those of all seats.

    `own` (rows) are those of the rows of a pass; `windows` (rows, size) those of each one's last
    ancestors, the oldest first, and its own. The last of the committed text are ancestors of all.
    """

    own: Tensor
    windows: Tensor


class Forest(NamedTuple):
    """The rows of a pass by their texts, as in its `Grouping`, and where their changes lie.

    `own` (texts, rows) are numbers of rows in the pass, of which `places` (rows) is the inverse, in
    one line. `sees` (texts, rows, earlier + rows) tells which rows, earlier ones and then those of
    the pass, are a row's ancestors, which lie before it, or the row itself. `seats` (texts) are the
    texts' seats; what earlier rows change is kept at `known` (texts, earlier), if they are these
    texts' own (`is_known`), what those of the pass do at `targets` (rows).
    """

    own: Tensor
    places: Tensor
    sees: Tensor
    seats: Tensor
    known: Tensor
    is_known: Tensor
    targets: Tensor

    def earlier(self, kept: Tensor) -> Tensor:
        """Of what is kept (rows, ...) that of earlier rows: (texts, earlier, ...).

        Zero where there is none: what others have left there may be no number.
        """
        there = self.is_known.view(*self.is_known.shape, *(1 for _ in kept.shape[1:]))
        return torch.where(there, kept[self.known], 0.0)


class Lineage:
    """Who descends from whom among the rows of a pass: its forest and its paths.

    `rows` are those of `PassInputs`, whose texts lie in strips of `strip` in the cache, and
    `visible` is as in a `Sight`.
    """

    def __init__(self, rows: Tensor, visible: Tensor, grouping: Grouping, strip: int) -> None:
        self._numbers, self._seats = numbers_and_seats(rows, strip)
        self._visible, self._grouping = visible, grouping

    def forest(self) -> Forest:
        """By their texts."""
        own, earlier = self._grouping
        first = own[:, 0]
        start, seats = self._numbers[first], self._seats[first]
        column = torch.arange(own.shape[1], device=own.device)
        behind = torch.cat([earlier.expand(own.shape[0], -1), start[:, None] + column], dim=1)
        is_row, is_known = own - own[:, :1] == column, earlier < start[:, None]
        # In integers: torch's compiler for CPUs makes wrong code of truths that it puts together.
        is_there = torch.cat([is_known.long(), is_row.long()], dim=1)
        sees = _bits(self._visible[own], behind[:, None]) & is_there[:, None] & is_row[..., None]
        before = (torch.arange(self._seats.shape[0], device=own.device) - 1).clamp(min=0)
        text = (self._seats != self._seats[before]).cumsum(0)
        return Forest(
            own,
            text * own.shape[1] + self._numbers - start[text],
            sees > 0,
            seats,
            kept_at(seats[:, None], torch.where(is_known, earlier, 0)),
            is_known,
            kept_at(self._seats, self._numbers),
        )

    def paths(self, size: int) -> Paths:
        """Of a convolution that sees so many rows."""
        own, earlier = self._grouping
        row = torch.arange(earlier.shape[0] + own.shape[1], device=own.device)
        seen, found = _bits(self._visible, row) > 0, [self._numbers]
        for _ in range(size - 1):
            last = found[-1]
            parent = torch.where(seen & (row < last[:, None]), row, -1).amax(dim=1)
            found.append(torch.where(last < 0, last - 1, parent))
        numbers = torch.stack(found[::-1], dim=1)
        windows = kept_at(self._seats[:, None], numbers, size - 1)
        return Paths(windows[:, -1], windows)


def numbers_and_seats(rows: Tensor, strip: int) -> tuple[Tensor, Tensor]:
    """Of rows as in `PassInputs`: their numbers behind the committed text, and where that sits."""
    return rows[1] - rows[4], rows[4] // strip


def kept_at(seats: Tensor, numbers: Tensor | int, ahead: int = 0) -> Tensor:
    """Where rows of seats are kept, by their numbers behind the committed texts, if so many of
    these texts' own lie ahead of each seat's."""
    return seats * (ahead + MAX_STATE_ROWS) + ahead + numbers


def _bits(packed: Tensor, column: Tensor) -> Tensor:
    """Bits of these columns (..., columns) of each row (..., bytes), the lowest of a byte first, as
    numbers."""
    column = column.expand(*packed.shape[:-1], column.shape[-1])
    return (packed.gather(-1, column >> 3).long() >> (column & 7)) & 1
