"""Linear layers of one shape: states of each seat's committed text, what rows behind it change.

Rows of the same seat are numbered from where its committed text ends. All lie in tensors that never
move nor grow, and layers of one shape in the same ones, so that one operation folds them all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.geometry import MAX_STATE_ROWS, SPARE_ROWS
from engine.recurrent.recurrence import Changes, folded


@dataclass(slots=True)
class KeptByLayer:
    """What a layer has been seen to keep of one token.

    `window` (1, channels, size) is the input of its convolution, as many tokens as that sees;
    `state` (1, heads, left size, right size) that of its recurrence, None if it has none.
    """

    window: Tensor
    state: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Of the state of one text."""
        return self.window[..., 1:].nbytes + (0 if self.state is None else self.state.nbytes)

    @property
    def row_bytes(self) -> int:
        """Of what a row changes."""
        num_bytes = self.window[..., 0].nbytes
        if self.state is not None:
            _, heads, *sizes = self.state.shape
            num_bytes += heads * (sum(sizes) + 1) * self.state.itemsize
        return num_bytes

    @property
    def shape(self) -> tuple[object, ...]:
        """What layers have in common that lie in the same tensors."""
        state = self.state
        return self.window.shape, *(() if state is None else (state.shape, state.dtype))


class Recurrent(NamedTuple):
    """What a layer keeps of its recurrence.

    `states` (seats, heads, left size, right size) are sums of products of what rows have on the
    `left` (rows, heads, left size) and on the `right` (rows, heads, right size): keys and updates,
    in whichever order. `decays` (rows, heads) are logarithms.
    """

    states: Tensor
    left: Tensor
    right: Tensor
    decays: Tensor

    def turned(self) -> "Recurrent":
        """The same, with the other one on the left: views."""
        return Recurrent(self.states.mT, self.right, self.left, self.decays)


class LinearLayers:
    """`count` layers of so many seats and a spare one, which are alike to what `kept` says of one.

    `inputs` (layers, rows, channels) has for each seat the last `size` - 1 that the convolution had
    of the committed text, and those of the rows behind it. `recurrent` is what they keep of their
    recurrences, if they have any, with `layers` as the first dimension of each tensor.
    """

    def __init__(self, kept: KeptByLayer, count: int, num_seats: int) -> None:
        _, channels, self.size = kept.window.shape
        self._stride = MAX_STATE_ROWS + self.size - 1
        rows = num_seats * self._stride + self.size - 1 + SPARE_ROWS
        self.inputs = kept.window.new_zeros(count, rows, channels)
        self.recurrent: Recurrent | None = None
        if kept.state is not None:
            _, heads, left, right = kept.state.shape
            rows = num_seats * MAX_STATE_ROWS + SPARE_ROWS
            self.recurrent = Recurrent(
                kept.state.new_zeros(count, num_seats + 1, heads, left, right),
                kept.state.new_zeros(count, rows, heads, left),
                kept.state.new_zeros(count, rows, heads, right),
                kept.state.new_zeros(count, rows, heads),
            )

    def tensors(self, index: int) -> list[Tensor]:
        """Those of one layer, as views: the inputs and what is `Recurrent`, if it is."""
        return [each[index] for each in (self.inputs, *(self.recurrent or ()))]

    def fold(self, seat: int, path: Tensor) -> None:
        """Take rows of a seat, by their numbers, into its state."""
        tail = self.state(seat)[0]
        inputs = torch.cat(
            [tail, self.inputs[:, seat * self._stride + self.size - 1 + path]], dim=1
        )
        tail.copy_(inputs[:, inputs.shape[1] - self.size + 1 :])
        if self.recurrent is not None:
            state, rows = self.recurrent.states[:, seat], seat * MAX_STATE_ROWS + path
            changes = Changes(*(each[:, rows] for each in self.recurrent[1:]))
            state.copy_(folded(state, changes))

    def shift(self, seat: int, num_dropped: int, num_rows: int) -> None:
        """Forget a seat's first rows: so many that follow them are its first ones from now on."""
        begin = seat * self._stride + self.size - 1
        _shift(self.inputs, begin, num_dropped, num_rows)
        for each in self.recurrent[1:] if self.recurrent else ():
            _shift(each, seat * MAX_STATE_ROWS, num_dropped, num_rows)

    def state(self, seat: int) -> list[Tensor]:
        """The states of a seat's text, as views with `layers` as the first dimension."""
        begin = seat * self._stride
        tail = self.inputs[:, begin : begin + self.size - 1]
        return [tail, *([self.recurrent.states[:, seat]] if self.recurrent else [])]


def _shift(rows: Tensor, begin: int, num_dropped: int, num_rows: int) -> None:
    source = begin + num_dropped
    rows[:, begin : begin + num_rows] = rows[:, source : source + num_rows].clone()
