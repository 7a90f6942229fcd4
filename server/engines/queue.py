"""The queue in front of the seats of all engines: who waits, and who is next."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.engines.client import EngineClient
from server.engines.seats import Place


@dataclass(eq=False, slots=True)
class Turn:
    """A sequence's time in a seat; `woken` is set when it comes, or never will.

    Then it has a `place` in the engine of this `client`.
    """

    prompt: Sequence[int]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    client: EngineClient | None = None
    place: Place | None = None


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A client's request: `turns` are those of its sequences that wait, and `num_seats` it holds.

    A lower `priority` goes first. Moments are seconds of one monotonic clock.
    """

    priority: int = 0
    arrived_at: float = field(default_factory=time.monotonic)
    turns: deque[Turn] = field(default_factory=deque)
    num_seats: int = 0
    vacated_at: float = 0.0

    @property
    def order(self) -> tuple[int, int, float]:
        """Who is least is next: among equals who holds fewest seats, and of these who came first.

        So a request of many sequences has what the others leave, and never more than its share.
        """
        return self.priority, self.num_seats, self.arrived_at

    def seconds_waited(self, now: float) -> float:
        """For how long it has had no seat at all."""
        return 0.0 if self.num_seats else now - max(self.arrived_at, self.vacated_at)


class RequestQueue:
    """The requests that have not been answered; mutable. Each holds `max_seats` at most."""

    def __init__(self, max_seats: int | None = None) -> None:
        self.left = asyncio.Event()
        """Set whenever a request has left."""
        self._requests: list[QueuedRequest] = []
        self._max_seats = max_seats

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def join(self, priority: int) -> Iterator[QueuedRequest]:
        """Be one of them for as long as the block runs."""
        request = QueuedRequest(priority)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)
            self.left.set()

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a seat."""
        return len(self.turns)

    @property
    def num_running(self) -> int:
        """Sequences that hold one."""
        return sum(request.num_seats for request in self._requests)

    @property
    def num_unseated(self) -> int:
        """Requests none of whose sequences holds one."""
        return sum(not request.num_seats for request in self._requests)

    @property
    def turns(self) -> list[Turn]:
        """Those that have not come."""
        return [turn for request in self._requests for turn in request.turns]

    @property
    def next(self) -> QueuedRequest | None:
        """Whose turn it is, if anybody may have one more."""
        most = self._max_seats
        waiting = (each for each in self._requests if each.turns)
        able = (each for each in waiting if most is None or each.num_seats < most)
        return min(able, key=lambda each: each.order, default=None)
