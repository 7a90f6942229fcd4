"""What an engine process has told so far, and who waits to be told more."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from engine.errors import (
    EngineBusyError,
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
)
from engine.process.messages import (
    Compiled,
    Event,
    Failed,
    Loading,
    Ready,
    Stepped,
    TokenizerRead,
    Unloadable,
)
from engine.request import LoadProgress, ModelInfo, TokenizerState, Update

Updates = asyncio.Queue[Update | EngineError]


_FAILURES: Mapping[str, type[EngineError]] = {
    "invalid": InvalidRequestError,
    "busy": EngineBusyError,
    "broken": EngineDiedError,
}


class Answers:
    """Takes in events, and hands them to whoever waits; mutable. Made in a running loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.progress = LoadProgress("starting the engine process", 0.0)
        self.info: ModelInfo | None = None
        self.ready: asyncio.Future[ModelInfo] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        self._tokenizer: asyncio.Future[TokenizerState] | None = None
        self._running: dict[str, Updates] = {}

    def tokenizer(self) -> "asyncio.Future[TokenizerState]":
        """The tokenizer that is to be told next."""
        self._tokenizer = asyncio.get_running_loop().create_future()
        return self._tokenizer

    @contextmanager
    def updates(self, request_id: str) -> Iterator[Updates]:
        """What is told of a request from now on; an error is the last that is.

        Raises EngineDiedError where there is nobody to tell any more.
        """
        if self.died.done():
            raise EngineDiedError(self.died.result())
        if request_id in self._running:
            raise EngineError(f"another request has the id {request_id!r}.")
        updates = self._running[request_id] = asyncio.Queue()
        try:
            yield updates
        finally:
            del self._running[request_id]

    def take(self, event: Event) -> None:
        """Something has been told."""
        match event:
            case Loading(progress):
                self.progress = progress
            case Ready(info):
                self.info = info
                if not self.ready.done():
                    self.ready.set_result(info)
            case Unloadable(message, traceback):
                unloadable = ModelLoadError(message)
                unloadable.add_note(traceback)
                self.ready.set_exception(unloadable)
            case TokenizerRead(state, message):
                self._take_tokenizer(state, message)
            case Compiled(request_id):
                self._deliver(request_id, Update(request_id))
            case Stepped(updates):
                for update in updates:
                    self._deliver(update.request_id, update)
            case Failed(request_id, message, why):
                self._deliver(request_id, _FAILURES[why](message))

    def bury(self, code: int, fault: str | None) -> None:
        """The process has ended with this exit code, for its `fault` if that is known.

        There is nothing to wait for any more.
        """
        reason = f"the engine process ended with exit code {code}"
        if fault is not None:
            reason += f": {fault}"
        died = EngineDiedError(reason)
        if not self.ready.done():
            # What ends by itself while it loads would do so again; what was killed may not be.
            self.ready.set_exception(ModelLoadError(reason) if code > 0 else died)
        if self._tokenizer is not None and not self._tokenizer.done():
            self._tokenizer.set_exception(died)
        for updates in self._running.values():
            updates.put_nowait(died)
        self.died.set_result(reason)

    def _take_tokenizer(self, state: TokenizerState | None, message: str) -> None:
        if self._tokenizer is None or self._tokenizer.done():
            return
        if state is None:
            self._tokenizer.set_exception(ModelLoadError(message))
        else:
            self._tokenizer.set_result(state)

    def _deliver(self, request_id: str, told: Update | EngineError) -> None:
        if request_id in self._running:
            self._running[request_id].put_nowait(told)
