"""The engine processes of one server, one for a device, and who may use which."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from server.engine_client import Engine, EngineClient, Serving
from server.errors import LoadFailedError
from server.text import Tokenizer

_log = logging.getLogger(__name__)


class EnginePool:
    """Engines of one model, each supervised on its own; mutable.

    `spawns` make the handle of a fresh process, each of one engine. An engine runs one request at
    a time. `on_failure` is called once it is known that none will ever serve again.
    """

    def __init__(
        self,
        spawns: Sequence[Callable[[], Engine]],
        on_failure: Callable[[], None] = lambda: None,
        backoff: float = 0.5,
    ) -> None:
        self._on_failure = on_failure
        self._tokenizer: Tokenizer | None = None
        self._reading = asyncio.Lock()
        self._told: set[EngineClient] = set()
        self._changed = asyncio.Event()
        self._head = asyncio.Lock()
        self.clients = tuple(
            EngineClient(number, spawn, self._note_change, backoff)
            for number, spawn in enumerate(spawns)
        )
        self._idle = list(self.clients)

    def start(self) -> None:
        """Begin loading; returns at once."""
        for client in self.clients:
            client.start(self._tokenizer_of)

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

    @property
    def is_full(self) -> bool:
        """Whether requests run and no engine is free for another."""
        return len(self._idle) < len(self.clients) and not self._free

    @asynccontextmanager
    async def hold(self, prompt: Sequence[int]) -> AsyncIterator[Serving]:
        """Wait for an engine that is free for a prompt (token ids), and keep others off it.

        First come, first served. Raises ApiError once it is known that no engine will ever serve.
        """
        async with self._head:
            serving = await self._take(prompt)
        try:
            yield serving
        finally:
            self._idle.append(serving.client)
            self._changed.set()

    @property
    def _free(self) -> list[Serving]:
        """The one that has been idle for longest comes first."""
        return [client.serving for client in self._idle if client.is_serving]

    async def _tokenizer_of(self, engine: Engine) -> Tokenizer:
        """The one tokenizer of all engines, had from the first that is ready."""
        async with self._reading:
            if self._tokenizer is None:
                state = await engine.read_tokenizer()
                self._tokenizer = await asyncio.to_thread(Tokenizer.of, state)
            return self._tokenizer

    def _note_change(self) -> None:
        self._changed.set()
        if self.failure is not None:
            self._on_failure()
        elif self.nearest.is_serving:
            for client in self.clients:
                self._tell_failure(client)

    def _tell_failure(self, client: EngineClient) -> None:
        """Log, once, that the others serve without this one."""
        if isinstance(client.refusal, LoadFailedError) and client not in self._told:
            self._told.add(client)
            _log.error("engine %d: %s The others go on.", client.number, client.refusal)

    async def _take(self, prompt: Sequence[int]) -> Serving:
        """For the head of the queue alone."""
        while not (free := self._free):
            if (refusal := self.nearest.refusal) is not None:  # and so it is with the others
                raise refusal.with_traceback(None)
            self._changed.clear()
            await self._changed.wait()
        serving = max(free, key=lambda one: _saving(one, prompt))
        self._idle.remove(serving.client)
        return serving


def _saving(serving: Serving, prompt: Sequence[int]) -> int:
    """Tokens of a prompt that an engine need not read again, if they are half of it.

    Fewer, such as a common first line, are not worth the rows of another text.
    """
    num_known = serving.num_known(prompt)
    return num_known if 2 * num_known >= len(prompt) else 0
