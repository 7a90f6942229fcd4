"""The bounded first-come-first-served queue in front of the engines.

An engine runs one request at a time; a request of several sequences holds its turn, which is one
engine, until the last is done.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from server.engine_client import Serving
from server.engine_pool import EnginePool
from server.errors import DrainingError, QueueFullError, QueueTimeoutError
from server.metrics import Metrics

RETRY_AFTER = 1


class Dispatcher:
    """Gives out turns; mutable. Once drained it gives out none."""

    def __init__(
        self, pool: EnginePool, metrics: Metrics, max_queue: int, queue_timeout: float
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._max_queue = max_queue
        self._queue_timeout = queue_timeout
        self._num_waiting = 0
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False

    def admit(self) -> None:
        """Refuse at once what could not be queued; raises DrainingError or QueueFullError."""
        if self.is_draining:
            raise DrainingError("The server is shutting down.", retry_after=RETRY_AFTER)
        must_wait = self._num_waiting or self._pool.is_full
        if must_wait and self._num_waiting >= self._max_queue:
            raise QueueFullError(
                f"The queue is full: {self._num_waiting} requests are waiting.",
                retry_after=RETRY_AFTER,
            )

    @asynccontextmanager
    async def turn(self, prompt: Sequence[int]) -> AsyncIterator[Serving]:
        """Wait for this request's turn and hold it; raises ApiError where none comes.

        The engine is one that can serve, if possible one that knows the prompt (token ids).
        """
        self.admit()
        self._num_open += 1
        self._idle.clear()
        try:
            async with AsyncExitStack() as held:
                serving = await self._wait(held, prompt)
                held.callback(self._metrics.cache_usage(serving.client.number).set, 0)
                with self._metrics.running.track_inprogress():
                    yield serving
        finally:
            self._num_open -= 1
            if self._num_open == 0:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Admit no more; let what is running or queued finish, then refuse the rest."""
        self.is_draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            await self.stop()

    async def stop(self) -> None:
        """Refuse what is running or queued, by the end of its engine."""
        await self._pool.close()

    async def _wait(self, held: AsyncExitStack, prompt: Sequence[int]) -> Serving:
        """Queue for an engine, be it busy or being restarted."""
        self._num_waiting += 1
        try:
            with self._metrics.waiting.track_inprogress():
                async with asyncio.timeout(self._queue_timeout):
                    return await held.enter_async_context(self._pool.hold(prompt))
        except TimeoutError:
            raise QueueTimeoutError(
                f"The request waited {self._queue_timeout:g} s for its turn.",
                retry_after=RETRY_AFTER,
            ) from None
        finally:
            self._num_waiting -= 1
