"""The seats of one engine process, and which prompt was read in each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine import num_common


@dataclass(eq=False, slots=True)
class Seat:
    """Room for one text, so many tokens long by now; `prompt` is the last that was read here.

    Its last step has verified a tree of `num_nodes`.
    """

    prompt: Sequence[int] = ()
    num_tokens: int = 0
    num_nodes: int = 0


class Seats:
    """Those of one process, each for a text of `window` tokens; mutable.

    The engine chooses the seat of a text itself. It is told here as it chooses: where most of the
    prompt is known, or else where nobody has sat for longest.
    """

    def __init__(self, num_seats: int = 0, window: int = 1) -> None:
        self._all = [Seat() for _ in range(num_seats)]
        self._free = list(self._all)
        self._window = window

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._all)

    @property
    def num_free(self) -> int:
        """Seats where nobody sits."""
        return len(self._free)

    def is_free(self, seat: Seat) -> bool:
        """Whether nobody sits there."""
        return seat in self._free

    @property
    def usage(self) -> float:
        """The share of the room for tokens that texts fill, from 0 to 1."""
        num_tokens = sum(seat.num_tokens for seat in self._all)
        return num_tokens / (self._window * len(self)) if self._all else 0.0

    def saving(self, prompt: Sequence[int]) -> int:
        """Tokens of a prompt that need not be read again in a free seat, if they are half of it.

        Fewer, such as a common first line, are not worth the rows of another text.
        """
        num_known = max((num_common(seat.prompt, prompt) for seat in self._free), default=0)
        return num_known if 2 * num_known >= len(prompt) else 0

    def take(self, prompt: Sequence[int]) -> Seat:
        """Sit down with this prompt; there must be a free seat."""
        known = [num_common(seat.prompt, prompt) for seat in self._free]
        seat = self._free.pop(known.index(max(known)))
        seat.prompt, seat.num_tokens = prompt, len(prompt)
        return seat

    def vacate(self, seat: Seat) -> None:
        """A text has ended; one whose process has died since is no matter."""
        if seat in self._all:
            seat.num_tokens = seat.num_nodes = 0
            self._free.append(seat)
