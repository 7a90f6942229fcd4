"""The queue in front of the seats of all engines: who waits, and who is next."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from server.engines.client import EngineClient
from server.engines.seats import Seat
from server.errors import ApiError, QueueTimeoutError

_RETRY_AFTER = 1


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A client's request in the queue; `turns` are those of its sequences that wait.

    A lower `priority` goes first. Moments are seconds of one monotonic clock.
    """

    priority: int = 0
    arrived_at: float = field(default_factory=time.monotonic)
    turns: deque["Turn"] = field(default_factory=deque)
    num_seats: int = 0
    """How many it holds."""
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


@dataclass(eq=False, slots=True)
class Turn:
    """A sequence's time in a seat; `woken` is set when it comes, or never will."""

    prompt: Sequence[int]
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    client: EngineClient | None = None
    seat: Seat = field(default_factory=Seat)


class SeatQueue:
    """Hands out the seats of engines; mutable.

    A request waits `timeout` seconds at most for its first seat, or for one after it had none, and
    it holds no more than `max_seats` at once.
    """

    def __init__(
        self, clients: Sequence[EngineClient], timeout: float, max_seats: int | None = None
    ) -> None:
        self.left = asyncio.Event()
        """Set whenever a request has left."""
        # That which has been passed over for longest comes first.
        self._clients = list(clients)
        self._requests: list[QueuedRequest] = []
        self._timeout = timeout
        self._max_seats = max_seats

    def __len__(self) -> int:
        """Requests that have not left."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a seat."""
        return sum(len(request.turns) for request in self._requests)

    @property
    def num_running(self) -> int:
        """Sequences that hold one."""
        return sum(request.num_seats for request in self._requests)

    @property
    def num_unseated(self) -> int:
        """Requests none of whose sequences holds one."""
        return sum(not request.num_seats for request in self._requests)

    @property
    def has_free(self) -> bool:
        """Whether any engine that can serve has a free seat."""
        return any(self._free())

    @contextmanager
    def request(self, priority: int) -> Iterator[QueuedRequest]:
        """Join the queue for as long as the block runs."""
        request = QueuedRequest(priority)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)
            self.left.set()

    @asynccontextmanager
    async def turn(
        self, request: QueuedRequest, prompt: Sequence[int]
    ) -> AsyncIterator[tuple[EngineClient, Seat]]:
        """Wait for a seat and hold it; raises QueueTimeoutError, or why no engine will ever serve.

        It is one of an engine that can serve, if possible one that knows the prompt (token ids).
        """
        turn = Turn(prompt)
        request.turns.append(turn)
        self.serve()
        try:
            yield await self._come(request, turn), turn.seat
        finally:
            if turn.client is None:
                request.turns.remove(turn)
            else:
                turn.client.seats.vacate(turn.seat)
                request.num_seats -= 1
                request.vacated_at = time.monotonic()
            self.serve()

    def serve(self) -> None:
        """Give free seats to those who are next; if none will ever come, tell all who wait."""
        while (free := list(self._free())) and (waiting := self._eligible()):
            request = min(waiting, key=lambda each: each.order)
            turn = request.turns.popleft()
            client = max(free, key=lambda one: (one.seats.saving(turn.prompt), one.seats.num_free))
            self._clients.append(self._clients.pop(self._clients.index(client)))
            turn.client, turn.seat = client, client.seats.take(turn.prompt)
            request.num_seats += 1
            turn.woken.set()
        if self._refusal is not None:
            for turn in [turn for request in self._requests for turn in request.turns]:
                turn.woken.set()

    async def _come(self, request: QueuedRequest, turn: Turn) -> EngineClient:
        while turn.client is None:
            if (refusal := self._refusal) is not None:
                raise refusal.with_traceback(None)
            left = self._timeout - request.seconds_waited(time.monotonic())
            if left <= 0:
                told = f"The request waited {self._timeout:g} s for its turn."
                raise QueueTimeoutError(told, retry_after=_RETRY_AFTER)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await turn.woken.wait()
        return turn.client

    def _free(self) -> Iterator[EngineClient]:
        return (one for one in self._clients if one.is_serving and one.seats.num_free)

    def _eligible(self) -> list[QueuedRequest]:
        most = self._max_seats
        return [one for one in self._requests if one.turns and (not most or one.num_seats < most)]

    @property
    def _refusal(self) -> ApiError | None:
        """Why no engine will ever serve again."""
        refusals = [client.refusal for client in self._clients]
        return None if None in refusals else refusals[0]
