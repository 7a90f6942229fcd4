"""The tokenizer of the model that all engines run."""

import asyncio
import logging

from server.engines.contract import Engine
from server.text import Infill, Tokenizer

_log = logging.getLogger(__name__)


class SharedTokenizer:
    """Has it from the first engine that is ready, once; mutable.

    `infill` is how gaps are filled, by a template or by the tokens that there are; None if not.
    """

    def __init__(self, fim_template: str | None = None) -> None:
        self.infill: Infill | None = None
        self._fim_template = fim_template
        self._lock = asyncio.Lock()
        self._tokenizer: Tokenizer | None = None

    async def read(self, engine: Engine) -> None:
        """Have it before this engine serves; raises ModelLoadError or EngineDiedError."""
        async with self._lock:
            if self._tokenizer is None:
                state = await engine.read_tokenizer()
                self._tokenizer = await asyncio.to_thread(Tokenizer.of, state)
                self.infill = Infill.of(self._tokenizer, self._fim_template)
                if self.infill is not None:
                    _log.info("fill-in-the-middle: %s", self.infill.template)

    def get(self) -> Tokenizer:
        """The tokenizer; an engine must have been ready."""
        assert self._tokenizer is not None, "no engine has been ready yet"
        return self._tokenizer
