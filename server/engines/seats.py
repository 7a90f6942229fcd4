"""The texts that one engine process was given, and the seats where it has told of them.

How many fit the server counts, for it gives them; where each sits the engine decides, and tells.
"""

from collections.abc import Sequence

from engine import Output, num_common


class Seats:
    """Those of one process, each for a text of `window` tokens; mutable."""

    def __init__(self, num_seats: int = 0, window: int = 1) -> None:
        self._prompts: list[Sequence[int]] = [()] * num_seats
        """The last that was read in each."""
        self._places: list[Place] = []
        self._window = window

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def num_free(self) -> int:
        """How many more texts it may be given."""
        return len(self) - len(self._places)

    @property
    def usage(self) -> float:
        """The share of the room for tokens that texts fill, from 0 to 1."""
        num_tokens = sum(place.num_tokens for place in self._places)
        return num_tokens / (self._window * len(self)) if len(self) else 0.0

    @property
    def taken(self) -> "list[Place | None]":
        """Who sits in each seat; whoever has not told yet in one of those that are left."""
        told = {place.seat: place for place in self._places}
        silent = (place for place in self._places if place.seat is None)
        return [told[seat] if seat in told else next(silent, None) for seat in range(len(self))]

    def saving(self, prompt: Sequence[int]) -> int:
        """Tokens of a prompt that need not be read again, if they are half of it.

        Fewer, such as a common first line, are not worth the rows of another text. What is known
        where somebody sits is copied from there.
        """
        known = [*self._prompts, *(place.prompt for place in self._places)]
        num_known = max((num_common(each, prompt) for each in known), default=0)
        return num_known if 2 * num_known >= len(prompt) else 0

    def take(self, prompt: Sequence[int]) -> "Place":
        """Give it a text with this prompt; there must be a free seat."""
        place = Place(self, prompt)
        self._places.append(place)
        return place

    def leave(self, place: "Place") -> None:
        """A text has ended."""
        self._places.remove(place)

    def read(self, place: "Place", seat: int) -> None:
        """A text's prompt has been read, in this seat."""
        self._prompts[seat] = place.prompt


class Place:
    """A text's place in an engine: so many tokens long by now, its last tree of `num_nodes`.

    Mutable; `seat` is None until the engine has told of it.
    """

    def __init__(self, seats: Seats, prompt: Sequence[int]) -> None:
        self.prompt = prompt
        self.seat: int | None = None
        self.num_tokens = len(prompt)
        self.num_nodes = 0
        self._seats = seats

    def observe(self, step: Output, num_tokens: int) -> None:
        """A step has brought some tokens, of which the reply keeps so many."""
        if self.seat is None:
            self.seat = step.seat
            self._seats.read(self, step.seat)
        self.num_tokens += num_tokens
        self.num_nodes = step.stats.num_nodes

    def leave(self) -> None:
        """The text has ended."""
        self._seats.leave(self)
