"""The states of one seat's text, and the lengths of it to which they can return."""

from collections.abc import Sequence

from torch import Tensor

from engine.geometry import MAX_STATE_ROWS, SPARE_ROWS
from engine.recurrent.states import States

_BYTES_OF_POINTS = 2**28
_FEWEST_POINTS, _MOST_POINTS = 2, 32
_LEAST_READ = 16
"""Tokens: to read so few again is as cheap as to keep a copy for them."""


def num_points(num_bytes: int) -> int:
    """How many copies of states of so many bytes a seat keeps: as many as memory allows."""
    return min(max(_BYTES_OF_POINTS // max(num_bytes, 1), _FEWEST_POINTS), _MOST_POINTS)


def seat_bytes(state_bytes: int, row_bytes: int) -> int:
    """What a seat takes: its states, copies of them, and rows behind them."""
    return (1 + num_points(state_bytes)) * state_bytes + MAX_STATE_ROWS * row_bytes


def spare_bytes(state_bytes: int, row_bytes: int) -> int:
    """What the spare seat takes."""
    return state_bytes + SPARE_ROWS * row_bytes


class NoState:
    """Of a network whose layers all have rows: any beginning of a text can be gone back to."""

    most_rows: int | None = None
    """The most rows behind the text, in one pass or several; None: any number."""

    def reach(self, length: int) -> int:
        """The longest beginning of the text, of at most so many tokens, that has its states."""
        return length

    def cut(self, length: int) -> None:
        """Go back to a length within `reach`."""

    def read(self, num_tokens: int, num_nodes: int) -> None:
        """Take in the first rows behind the text, of its next tokens; so many nodes follow them."""

    def accept(self, path: Sequence[int]) -> None:
        """Take in a path, by the numbers of its rows behind the text."""

    def copy(self, other: "NoState", length: int) -> None:
        """Begin as another text, of which this length is within `reach`."""


class SeatState(NoState):
    """States of the first `length` tokens of a text; copies of them at `points`, shorter lengths.

    A state cannot be rolled back: who goes on with the beginning of a text goes back to the last
    point in it. There is one where a prompt, or a chunk of it, began and ended; of too many those
    stay that lie farthest apart, and the last.
    """

    most_rows = MAX_STATE_ROWS

    def __init__(self, states: States, seat: int) -> None:
        self.length = 0
        self.points: dict[int, Sequence[Tensor]] = {}
        self._states, self._seat = states, seat
        self._most = num_points(states.num_bytes)

    def reach(self, length: int) -> int:
        """The longest beginning of the text, of at most so many tokens, that has its states."""
        return max(each for each in (0, *self.points, self.length) if each <= length)

    def cut(self, length: int) -> None:
        """Go back to a length within `reach`."""
        self.points = {each: copy for each, copy in self.points.items() if each <= length}
        if length != self.length:
            self._states.restore(self._seat, self.points[length] if length else None)
            self.length = length

    def read(self, num_tokens: int, num_nodes: int) -> None:
        """Take in the first rows behind the text, of its next tokens; so many nodes follow them."""
        if not num_tokens:
            return
        is_long = num_tokens >= _LEAST_READ
        if is_long:
            self._mark()
        self._states.fold(self._seat, range(num_tokens))
        self._states.shift(self._seat, num_tokens, num_nodes)
        self.length += num_tokens
        if is_long:
            self._mark()

    def accept(self, path: Sequence[int]) -> None:
        """Take in a path, by the numbers of its rows behind the text."""
        if path:
            self._states.fold(self._seat, path)
            self.length += len(path)

    def copy(self, other: NoState, length: int) -> None:
        """Begin as another text, of which this length is within `reach`."""
        assert isinstance(other, SeatState)
        copied = other.points.get(length) or other._states.copy(other._seat)
        self._states.restore(self._seat, copied)
        self.length = length

    def _mark(self) -> None:
        """Keep a copy of the states as they are."""
        if self.length and self.length not in self.points:
            self.points[self.length] = self._states.copy(self._seat)
        if len(self.points) > self._most:
            lengths = [0, *sorted(self.points)]
            gaps = {lengths[i]: lengths[i + 1] - lengths[i - 1] for i in range(1, len(lengths) - 1)}
            del self.points[min(gaps, key=gaps.__getitem__)]
