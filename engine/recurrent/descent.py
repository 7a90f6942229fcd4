"""Who descends from whom among one text's rows of a pass, and those it has behind its committed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Descent:
    """The rows `own` of a pass, which are one text's, behind `num_earlier` rows of the same tree.

    `sees` (own, earlier + own) tells which of these rows are a row's ancestors, or the row itself.
    Ancestors lie before their descendants.
    """

    seat: int
    own: slice
    num_earlier: int
    sees: Tensor
    _windows: dict[int, Tensor] = field(default_factory=dict)

    def windows(self, size: int) -> Tensor:
        """Each row's last `size` - 1 ancestors and the row, the oldest first: (own, size).

        They are indices into the last `size` - 1 inputs of the committed text, which are ancestors
        of all, and the rows behind them.
        """
        if size not in self._windows:
            seen = torch.nn.functional.pad(self.sees, (size - 1, 0), value=True)
            places = torch.arange(seen.shape[1], device=seen.device).masked_fill(~seen, -1)
            self._windows[size] = places.topk(size, dim=1).values.flip(1)
        return self._windows[size]


def descents(places: Tensor, visible: Tensor, strip: int) -> list[Descent]:
    """Of each text in a pass, whose rows lie side by side.

    `places` (3, rows) are the rows of the cache that are written, where each text begins, which is
    a multiple of `strip`, and where its committed rows end; `visible` is as in a `Sight`.
    """
    found = []
    for first, own, earlier in _texts(places.tolist()):
        sees = _unpacked(visible[own], earlier + own.stop - own.start)
        found.append(Descent(first // strip, own, earlier, sees))
    return found


def _texts(places: list[list[int]]) -> Iterator[tuple[int, slice, int]]:
    slots, firsts, prefixes = places
    for first, group in groupby(range(len(slots)), firsts.__getitem__):
        rows = list(group)
        yield first, slice(rows[0], rows[-1] + 1), slots[rows[0]] - prefixes[rows[0]]


def _unpacked(bits: Tensor, num_columns: int) -> Tensor:
    """The first bits of each row, the lowest of a byte first: (rows, columns), bool."""
    column = torch.arange(num_columns, device=bits.device)
    return ((bits[:, column >> 3] >> (column & 7)) & 1).bool()
