"""The tokenizer of the model that all engines run."""

import asyncio

from server.engines.contract import Engine
from server.text import Tokenizer


class SharedTokenizer:
    """Has it from the first engine that is ready, once; mutable."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._tokenizer: Tokenizer | None = None

    async def read(self, engine: Engine) -> None:
        """Have it before this engine serves; raises ModelLoadError or EngineDiedError."""
        async with self._lock:
            if self._tokenizer is None:
                state = await engine.read_tokenizer()
                self._tokenizer = await asyncio.to_thread(Tokenizer.of, state)

    def get(self) -> Tokenizer:
        """The tokenizer; an engine must have been ready."""
        assert self._tokenizer is not None, "no engine has been ready yet"
        return self._tokenizer
