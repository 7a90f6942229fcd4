"""The handle on one engine process: what a server holds. Imports no torch."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from itertools import count

import zmq

from engine.config import EngineConfig
from engine.errors import EngineDiedError, EngineError
from engine.process.answers import Answers
from engine.process.child import LOADING_SILENCE_SECONDS, SILENCE_SECONDS, Child
from engine.process.messages import Cancel, Close, Compile, Generate, ReadTokenizer
from engine.request import (
    Constraint,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    TokenizerState,
    Update,
)


class EngineProcess:
    """A handle on one engine process: start it, wait until it is ready, generate, close it.

    It is made in the event loop that it is used in.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._answers = Answers()
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = count()

    async def start(self) -> None:
        """Spawn the process; returns at once, the weights load over there.

        Raises EngineDiedError where there is no room for it.
        """
        try:
            self._child = await Child.spawn(self._config)
        except (OSError, zmq.ZMQError) as error:
            reason = f"the engine process could not be started: {error}"
            self._answers.died.set_result(reason)
            raise EngineDiedError(reason) from error
        work = (
            self._child.listen(self._answers.take),
            self._watch(),
            _bury(self._child, self._answers),
        )
        self._tasks = [asyncio.create_task(each) for each in work]

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self._answers.progress

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded, as last heard; None before it is ready."""
        return self._answers.info

    async def wait_ready(self) -> ModelInfo:
        """What was loaded, once it is. Raises ModelLoadError or EngineDiedError."""
        return await asyncio.shield(self._answers.ready)

    async def wait_died(self) -> str:
        """Why the process ended, once it has."""
        return await asyncio.shield(self._answers.died)

    async def read_tokenizer(self) -> TokenizerState:
        """The loaded model's tokenizer. Raises ModelLoadError or EngineDiedError."""
        tokenizer = self._answers.tokenizer()
        self._child.send(ReadTokenizer())
        return await tokenizer

    async def compile(self, constraint: Constraint) -> None:
        """Wait until requests may have a constraint, which is compiled beside those that run.

        Raises InvalidRequestError for one that none may have, or EngineDiedError.
        """
        name = f"constraint {next(self._numbers)}"
        with self._answers.updates(name) as updates:
            self._child.send(Compile(name, constraint))
            if isinstance(told := await updates.get(), EngineError):
                raise told

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Update]:
        """Run one request, in its turn: what comes of it, step by step. The last has its end.

        Closing the iterator early cancels the request and returns once the engine is rid of it.
        Raises InvalidRequestError or EngineDiedError.
        """
        with self._answers.updates(request.request_id) as updates:
            self._child.send(Generate(request))
            is_over = False
            try:
                while not is_over:
                    update = await updates.get()
                    is_over = _is_last(update)
                    if isinstance(update, EngineError):
                        raise update
                    yield update
            finally:
                if not is_over:
                    self.cancel(request.request_id)
                    while not _is_last(await updates.get()):
                        pass

    def cancel(self, request_id: str) -> None:
        """End a request within one step; its stream ends with reason "cancelled". Idempotent."""
        with contextlib.suppress(EngineDiedError):
            self._child.send(Cancel(request_id))

    async def close(self, grace: float = 5.0) -> None:
        """End the process, if there is one, by force after `grace` seconds; remove its socket."""
        if not self._tasks:
            return
        # A process that is still loading does not listen, and has nothing to finish.
        if self._answers.ready.done() and not self._answers.died.done():
            with contextlib.suppress(TimeoutError, EngineDiedError):
                self._child.send(Close())
                await asyncio.wait_for(self.wait_died(), grace)
        if not self._answers.died.done():
            self._child.kill()
            await self.wait_died()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._child.close()

    async def _watch(self) -> None:
        """It must not be silent for long, not even while it loads."""
        is_ready = self._answers.ready.done
        await self._child.kill_when_silent(
            lambda: SILENCE_SECONDS if is_ready() else LOADING_SILENCE_SECONDS
        )


async def _bury(child: Child, answers: Answers) -> None:
    """Tell everyone who waits that it has ended."""
    code = await child.wait()
    answers.bury(code, child.fault)


def _is_last(update: Update | EngineError) -> bool:
    """Whether nothing more is told of a request."""
    return isinstance(update, EngineError) or update.finished is not None
