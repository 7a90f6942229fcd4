"""Who of the queue sits in which engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

from server.engines.client import EngineClient
from server.engines.queue import QueuedRequest, RequestQueue, Turn
from server.engines.seats import Place
from server.errors import ApiError, QueueTimeoutError

_RETRY_AFTER = 1


class Seating:
    """Hands out the seats of engines; mutable.

    A request waits `timeout` seconds at most for its first seat, or for one after it had none.
    """

    def __init__(
        self, clients: Sequence[EngineClient], queue: RequestQueue, timeout: float
    ) -> None:
        # That which has been passed over for longest comes first.
        self._clients = list(clients)
        self._queue = queue
        self._timeout = timeout

    @property
    def num_free(self) -> int:
        """Free seats of the engines that can serve."""
        return sum(client.seats.num_free for client in self._free())

    @asynccontextmanager
    async def turn(
        self, request: QueuedRequest, prompt: Sequence[int]
    ) -> AsyncIterator[tuple[EngineClient, Place]]:
        """Wait for a place and hold it; raises QueueTimeoutError, or why no engine will ever serve.

        It is in an engine that can serve, if possible one that knows the prompt (token ids).
        """
        turn = Turn(prompt)
        request.turns.append(turn)
        self.serve()
        try:
            yield await self._come(request, turn)
        finally:
            if turn.place is None:
                request.turns.remove(turn)
            else:
                turn.place.leave()
                request.num_seats -= 1
                request.vacated_at = time.monotonic()
            self.serve()

    def serve(self) -> None:
        """Give free seats to those who are next; if none will ever come, tell all who wait."""
        while (free := list(self._free())) and (request := self._queue.next):
            turn = request.turns.popleft()
            client = max(free, key=lambda one: (one.seats.saving(turn.prompt), one.seats.num_free))
            self._clients.remove(client)
            self._clients.append(client)
            turn.client, turn.place = client, client.seats.take(turn.prompt)
            request.num_seats += 1
            turn.woken.set()
        if self._refusal is not None:
            for turn in self._queue.turns:
                turn.woken.set()

    async def _come(self, request: QueuedRequest, turn: Turn) -> tuple[EngineClient, Place]:
        while turn.client is None or turn.place is None:
            if (refusal := self._refusal) is not None:
                raise refusal.with_traceback(None)
            left = self._timeout - request.seconds_waited(time.monotonic())
            if left <= 0:
                told = f"The request waited {self._timeout:g} s for its turn."
                raise QueueTimeoutError(told, retry_after=_RETRY_AFTER)
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await turn.woken.wait()
        return turn.client, turn.place

    def _free(self) -> Iterator[EngineClient]:
        return (one for one in self._clients if one.is_serving and one.seats.num_free)

    @property
    def _refusal(self) -> ApiError | None:
        """Why no engine will ever serve again."""
        refusals = [client.refusal for client in self._clients]
        return None if None in refusals else refusals[0]
