"""One linear layer: the state of each seat's committed text, and what the rows behind it change."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.recurrent.descent import Descent
from engine.recurrent.recurrence import Asked, Changes, folded, recur


@dataclass(slots=True)
class KeptByLayer:
    """What a layer has been seen to keep of one token.

    `window` (1, channels, size) is the input of its convolution, as many tokens as that sees;
    `state` (1, heads, ...) that of its recurrence, None if it has none.
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


class LinearLayer:
    """A layer's states of so many texts, each of which has its rows for one tree alone.

    `tails` (texts, window size - 1, channels) are the last inputs of the convolution, `states`
    (texts, heads, key size * value size) those of the recurrence.
    """

    def __init__(self, kept: KeptByLayer, num_texts: int) -> None:
        _, channels, size = kept.window.shape
        self.size = size
        self.tails = kept.window.new_zeros(num_texts, size - 1, channels)
        self.states: Tensor | None = None
        if kept.state is not None:
            state = kept.state[0].flatten(1)
            self.states = state.new_zeros(num_texts, *state.shape)
        self._inputs: list[Tensor | None] = [None] * num_texts
        self._changes: list[Changes | None] = [None] * num_texts

    def windows(self, inputs: Tensor, descent: Descent) -> Tensor:
        """What the convolution sees at each row of a text, (rows, channels, size), of its inputs.

        These (rows, channels) are kept.
        """
        earlier, tail = self._inputs[descent.seat], self.tails[descent.seat]
        if descent.num_earlier and earlier is not None:
            inputs = torch.cat([earlier[: descent.num_earlier], inputs])
        self._inputs[descent.seat] = inputs
        return torch.cat([tail, inputs])[descent.windows(self.size)].transpose(1, 2)

    def recur(self, asked: Asked, descent: Descent) -> Tensor:
        """What each row of a text reads, (rows, heads, value size); what it changes is kept."""
        assert self.states is not None
        earlier = self._changes[descent.seat] if descent.num_earlier else None
        if earlier is not None:
            earlier = earlier.of(slice(descent.num_earlier))
        state = _by_key(self.states[descent.seat], asked.keys)
        read, changes = recur(asked, state, earlier, descent.sees)
        self._changes[descent.seat] = changes if earlier is None else earlier.before(changes)
        return read

    def fold(self, seat: int, path: Tensor) -> None:
        """Take rows, by their numbers behind the committed text, into the state."""
        inputs, changes = self._inputs[seat], self._changes[seat]
        assert inputs is not None
        tail = torch.cat([self.tails[seat], inputs[path]])
        self.tails[seat] = tail[len(tail) - self.size + 1 :]
        if changes is not None and self.states is not None:
            state = _by_key(self.states[seat], changes.keys)
            state.copy_(folded(state, changes.of(path)))

    def drop(self, seat: int, num_rows: int | None) -> None:
        """Forget the first rows behind the committed text; None: all of them."""
        inputs, changes = self._inputs[seat], self._changes[seat]
        if num_rows is None or inputs is None or len(inputs) <= num_rows:
            # Nor is what they lie in kept: a prompt's rows are many.
            self._inputs[seat] = self._changes[seat] = None
            return
        rows = slice(num_rows, None)
        self._inputs[seat] = inputs[rows]
        self._changes[seat] = None if changes is None else changes.of(rows)

    def state(self, seat: int) -> list[Tensor]:
        """The state of a text, as views."""
        states = [] if self.states is None else [self.states[seat]]
        return [self.tails[seat], *states]


def _by_key(state: Tensor, keys: Tensor) -> Tensor:
    """A state as (heads, key size, value size), a view."""
    return state.view(len(state), keys.shape[2], -1)
