"""The engine processes of one server, one for a device, and who may use which."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from server.engine_client import Engine, EngineClient, Serving
from server.text import Tokenizer


class EnginePool:
    """Engines of one model, each supervised on its own; mutable.

    `spawns` make the handle of a fresh process, each of one engine. An engine runs one request at
    a time.
    """

    def __init__(
        self,
        spawns: Sequence[Callable[[], Engine]],
        load_tokenizer: Callable[[], Tokenizer],
        backoff: float = 0.5,
    ) -> None:
        self._load_tokenizer = load_tokenizer
        self._changed = asyncio.Event()
        self._head = asyncio.Lock()
        self.clients = tuple(
            EngineClient(number, spawn, self._changed.set, backoff)
            for number, spawn in enumerate(spawns)
        )
        self._idle = list(self.clients)

    def start(self) -> None:
        """Begin loading; returns at once."""
        tokenizer = asyncio.create_task(asyncio.to_thread(self._load_tokenizer))
        for client in self.clients:
            client.start(tokenizer)

    async def close(self) -> None:
        """End the engine processes; whatever still runs or waits is refused."""
        await asyncio.gather(*(client.close() for client in self.clients))

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
