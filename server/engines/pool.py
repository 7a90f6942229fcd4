"""The engines of one server, one for a device, and the queue of requests in front of them."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from server.engines.client import EngineClient, Spawn
from server.engines.queue import QueuedRequest, RequestQueue
from server.engines.seating import Seating
from server.engines.tokenizer import SharedTokenizer
from server.errors import DrainingError, LoadFailedError, QueueFullError
from server.settings import Settings

_log = logging.getLogger(__name__)
_RETRY_AFTER = 1


class EnginePool:
    """Engines of one model, each supervised on its own, and the queue for their seats; mutable.

    `spawns` make the handle of a fresh process, each of one engine. `on_ready` is called when the
    first of them can serve, and `on_failure` once it is known that none ever will again. Once
    drained a pool admits nobody.
    """

    def __init__(
        self,
        settings: Settings,
        spawns: Sequence[Spawn],
        on_failure: Callable[[], None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
        backoff: float = 0.5,
    ) -> None:
        self.tokenizer = SharedTokenizer(settings.fim_template)
        self.clients = tuple(
            EngineClient(number, spawn, self.tokenizer.read, self._note_change, backoff)
            for number, spawn in enumerate(spawns)
        )
        self.queue = RequestQueue(settings.max_seats_per_request)
        self.seating = Seating(self.clients, self.queue, settings.queue_timeout)
        self.is_draining = False
        self._settings = settings
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._has_served = False
        self._told: set[EngineClient] = set()

    def start(self) -> None:
        """Begin loading; returns at once."""
        for client in self.clients:
            client.start()

    async def drain(self, seconds: float) -> None:
        """Admit no more; let what is running or queued finish, then refuse the rest."""
        self.is_draining = True
        try:
            async with asyncio.timeout(seconds):
                while self.queue:
                    self.queue.left.clear()
                    await self.queue.left.wait()
        except TimeoutError:
            await self.close()

    async def close(self) -> None:
        """End the engine processes; whatever still runs or waits is refused."""
        await asyncio.gather(*(client.close() for client in self.clients))

    @property
    def failure(self) -> LoadFailedError | None:
        """Why no engine will ever serve again, once that is known."""
        refusal = self.nearest.refusal
        return refusal if isinstance(refusal, LoadFailedError) else None

    @property
    def nearest(self) -> EngineClient:
        """An engine that can serve, or else the one that is likely to be the first."""
        return max(
            self.clients,
            key=lambda one: (one.is_serving, one.refusal is None, one.progress.progress),
        )

    def admit(self) -> None:
        """Refuse at once what could not be queued; raises DrainingError or QueueFullError."""
        if self.is_draining:
            raise DrainingError("The server is shutting down.", retry_after=_RETRY_AFTER)
        # Of those who have just come, some will sit down at once.
        num_waiting = self.queue.num_unseated - self.seating.num_free
        is_idle = not self.queue.num_unseated and not self.queue.num_running
        if num_waiting >= self._settings.max_queue and not is_idle:
            raise QueueFullError(
                f"The queue is full: {num_waiting} requests are waiting.",
                retry_after=_RETRY_AFTER,
            )

    @contextmanager
    def request(self, priority: int = 0) -> Iterator[QueuedRequest]:
        """Join the queue for as long as the block runs; raises as `admit` does."""
        self.admit()
        with self.queue.join(priority) as request:
            yield request

    def _note_change(self) -> None:
        self.seating.serve()
        if self.failure is not None:
            self._on_failure()
        elif self.nearest.is_serving:
            if not self._has_served:
                self._has_served = True
                self._on_ready()
            broken = {one for one in self.clients if isinstance(one.refusal, LoadFailedError)}
            for client in broken - self._told:
                _log.error("engine %d: %s The others go on.", client.number, client.refusal)
            self._told |= broken
