"""The engines of one server, one for a device, and the queue of requests in front of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile

from server.engines.client import EngineClient, Spawn
from server.engines.tokenizer import SharedTokenizer
from server.errors import DrainingError, LoadFailedError, QueueFullError, QueueTimeoutError
from server.settings import Settings

_log = logging.getLogger(__name__)
_RETRY_AFTER = 1


class EnginePool:
    """Engines of one model, each supervised on its own, and who may use which; mutable.

    `spawns` make the handle of a fresh process, each of one engine. An engine has one seat: it runs
    one request at a time, and others queue, first come, first served. `on_failure` is called once
    it is known that none will ever serve again. Once drained a pool admits nobody.
    """

    def __init__(
        self,
        settings: Settings,
        spawns: Sequence[Spawn],
        on_failure: Callable[[], None] = lambda: None,
        backoff: float = 0.5,
    ) -> None:
        self.tokenizer = SharedTokenizer()
        self.clients = tuple(
            EngineClient(number, spawn, self.tokenizer.read, self._note_change, backoff)
            for number, spawn in enumerate(spawns)
        )
        self.num_waiting = 0
        self.num_running = 0
        self.is_draining = False
        self._settings = settings
        self._on_failure = on_failure
        # The client of every free seat: that which has been free for longest comes first.
        self._seats = list(self.clients)
        self._head = asyncio.Lock()
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
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
                while self.num_waiting or self.num_running:
                    self._left.clear()
                    await self._left.wait()
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
        must_wait = self.num_waiting or (self.num_running and not self._free)
        if must_wait and self.num_waiting >= self._settings.max_queue:
            raise QueueFullError(
                f"The queue is full: {self.num_waiting} requests are waiting.",
                retry_after=_RETRY_AFTER,
            )

    @asynccontextmanager
    async def turn(self, prompt: Sequence[int]) -> AsyncIterator[EngineClient]:
        """Wait for a seat and hold it; raises ApiError where none comes.

        It is one of an engine that can serve, if possible one that knows the prompt (token ids).
        """
        self.admit()
        client = await self._wait(prompt)
        self.num_running += 1
        try:
            yield client
        finally:
            self.num_running -= 1
            self._seats.append(client)
            self._changed.set()
            self._left.set()

    @property
    def _free(self) -> list[EngineClient]:
        return [client for client in self._seats if client.is_serving]

    async def _wait(self, prompt: Sequence[int]) -> EngineClient:
        """Queue for a seat, be its engine busy or being restarted."""
        timeout = self._settings.queue_timeout
        self.num_waiting += 1
        try:
            async with asyncio.timeout(timeout), self._head:
                return await self._take(prompt)
        except TimeoutError:
            raise QueueTimeoutError(
                f"The request waited {timeout:g} s for its turn.", retry_after=_RETRY_AFTER
            ) from None
        finally:
            self.num_waiting -= 1
            self._left.set()

    async def _take(self, prompt: Sequence[int]) -> EngineClient:
        """For the head of the queue alone."""
        while not (free := self._free):
            if (refusal := self.nearest.refusal) is not None:  # and so it is with the others
                raise refusal.with_traceback(None)
            self._changed.clear()
            await self._changed.wait()
        client = max(free, key=lambda one: _saving(one.last_prompt, prompt))
        self._seats.remove(client)
        return client

    def _note_change(self) -> None:
        self._changed.set()
        if self.failure is not None:
            self._on_failure()
        elif self.nearest.is_serving:
            broken = {one for one in self.clients if isinstance(one.refusal, LoadFailedError)}
            for client in broken - self._told:
                _log.error("engine %d: %s The others go on.", client.number, client.refusal)
            self._told |= broken


def _saving(last_prompt: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of a prompt that an engine need not read again, if they are half of it.

    Fewer, such as a common first line, are not worth the rows of another text.
    """
    pairs = zip(prompt, last_prompt, strict=False)
    num_known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return num_known if 2 * num_known >= len(prompt) else 0
