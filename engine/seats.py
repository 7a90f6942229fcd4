"""Who waits, who sits where, and whose prompt is read next."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.scorer import TreeScorer
from engine.text import Text


@dataclass(slots=True)
class Seats:
    """The texts of a decoder, each of which is written where it sits in the target's cache.

    A seat keeps the rows of its last text until another sits there: where most of it is known, or
    else where nobody has sat for longest.
    """

    target: TreeScorer
    _waiting: deque[Text] = field(default_factory=deque)
    _reading: list[Text] = field(default_factory=list)
    _writing: list[Text] = field(default_factory=list)
    _free: list[int] = field(init=False)
    """Seats, that which has been free for longest first."""

    def __post_init__(self) -> None:
        self._free = list(range(len(self.target.strips.seats)))

    def __iter__(self) -> Iterator[Text]:
        """All texts that have not ended."""
        return iter([*self._writing, *self._reading, *self._waiting])

    def queue(self, text: Text) -> None:
        """Let a text wait for a seat."""
        self._waiting.append(text)

    def fill(self) -> None:
        """Let texts sit that wait, in the order in which they came."""
        strips = self.target.strips
        while self._waiting and self._free:
            text = self._waiting.popleft()
            known = [strips.known(seat, text) for seat in self._free]
            text.seat = self._free.pop(known.index(max(known)))
            text.num_cached = len(strips.of(text).tokens)
            self._reading.append(text)

    @property
    def writing(self) -> Sequence[Text]:
        """The texts whose prompts have been read."""
        return tuple(self._writing)

    def next_to_read(self) -> Text | None:
        """The text whose prompt lacks least; one that has waited for long goes first."""
        if not self._reading:
            return None
        chunk, num_missing = self.target.chunk, self.target.num_missing
        chosen = min(self._reading, key=lambda text: num_missing(text) - text.num_waits * chunk)
        for text in self._reading:
            text.num_waits += text is not chosen
        return chosen

    def begin(self, text: Text) -> None:
        """Its prompt has been read."""
        self._reading.remove(text)
        self._writing.append(text)

    def vacate(self, text: Text) -> None:
        """A text has ended; its rows stay until the seat is needed."""
        if text in self._waiting:
            self._waiting.remove(text)
            return
        (self._writing if text in self._writing else self._reading).remove(text)
        text.sampling.noise.forget()  # the text itself is remembered, with its rows
        self._free.append(text.seat)
