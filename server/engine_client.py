"""Starts, watches and restarts one engine process, and says whether it can serve."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Protocol

from engine import (
    EngineDiedError,
    Finished,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    ModelLoadError,
    Output,
    TokenizerState,
)
from server.errors import ApiError, DrainingError, LoadFailedError, NotReadyError
from server.text import Tokenizer

_log = logging.getLogger(__name__)

# So many deaths, none after a quiet spell of serving, are no accident.
MAX_DEATHS = 5
QUIET_SECONDS = 60.0
RETRY_AFTER = 2
_POLL_SECONDS = 0.2


class Engine(Protocol):
    """What the server asks of an engine process; `engine.EngineProcess` is one."""

    async def start(self) -> None:
        """Spawn the process and return while it loads."""

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded, as last heard; None before it is ready."""

    async def wait_ready(self) -> ModelInfo:
        """Wait for the model; raises ModelLoadError or EngineDiedError."""

    async def read_tokenizer(self) -> TokenizerState:
        """The loaded model's tokenizer; raises ModelLoadError or EngineDiedError."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Output | Finished]:
        """One sequence, step by step; closing the iterator cancels it and frees the engine."""

    def cancel(self, request_id: str) -> None:
        """End a request's stream early, by its own Finished."""

    async def wait_died(self) -> str:
        """Wait for the process to die or fall silent; returns why."""

    async def close(self) -> None:
        """End the process."""


TokenizerOf = Callable[[Engine], Awaitable[Tokenizer]]
"""The tokenizer that an engine's text is read with; raises ModelLoadError or EngineDiedError."""


@dataclass(eq=False, slots=True)
class Serving:
    """A process that can serve, with what is needed to speak to it; mutable."""

    client: "EngineClient"
    engine: Engine
    tokenizer: Tokenizer
    _last_prompt: Sequence[int] = field(default=(), init=False)

    @property
    def info(self) -> ModelInfo:
        """What the engine says of itself; what ends a text to its tokenizer does so here too."""
        info = self.engine.info
        assert info is not None
        ends = dict.fromkeys((*info.eos_token_ids, *self.tokenizer.eos_token_ids))
        return replace(info, eos_token_ids=tuple(ends))

    def num_known(self, prompt: Sequence[int]) -> int:
        """The first tokens of a prompt that the last one began with too: they are in the cache."""
        pairs = zip(prompt, self._last_prompt, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Output | Finished]:
        """Run one sequence; raises EngineDiedError when the process dies under it."""
        self._last_prompt = request.prompt
        try:
            async with aclosing(self.engine.generate(request)) as items:
                async for item in items:
                    if isinstance(item, Finished) and item.reason == "cancelled":
                        raise EngineDiedError("The engine gave this request up.")
                    yield item
        except EngineDiedError:
            self.client.forget(self)
            if (refusal := self.client.refusal) is not None:
                raise refusal.with_traceback(None) from None
            raise


class EngineClient:
    """Keeps one engine process alive; `spawn` makes the handle of a fresh one.

    `number` is what logs and metrics call it by, and `refusal` why it will never serve again, once
    that is known. `on_change` is called then, and whenever it can serve.
    """

    def __init__(
        self,
        number: int,
        spawn: Callable[[], Engine],
        on_change: Callable[[], None],
        backoff: float,
    ) -> None:
        self.number = number
        self._spawn = spawn
        self._on_change = on_change
        self._backoff = backoff
        self._engine: Engine | None = None
        self._ready_at = math.inf
        self._was_ready = False
        self._serving: Serving | None = None
        self.refusal: ApiError | None = None
        self._supervisor: asyncio.Task[None] | None = None

    def start(self, tokenizer_of: TokenizerOf) -> None:
        """Begin loading; returns at once. The tokenizer is had from whoever shares it."""
        self._supervisor = asyncio.create_task(self._supervise(tokenizer_of))

    async def close(self) -> None:
        """End the engine process; whatever still runs or waits is refused."""
        if self.refusal is None:
            self._refuse(DrainingError("The server is shutting down."))
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    @property
    def serving(self) -> Serving:
        """The engine, if it can serve now; raises NotReadyError or LoadFailedError."""
        if self._serving is not None:
            return self._serving
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)
        at = self.progress
        raise NotReadyError(
            f"The model is not ready yet: {at.phase}, {at.progress:.0%}.", retry_after=RETRY_AFTER
        )

    @property
    def is_serving(self) -> bool:
        """Whether it can serve now."""
        return self._serving is not None

    @property
    def info(self) -> ModelInfo | None:
        """What the loaded model says of itself; None while it cannot serve."""
        return self._serving.info if self._serving else None

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self._engine.progress if self._engine else LoadProgress("starting", 0.0)

    def forget(self, serving: Serving) -> None:
        """A request has met the death of this process.

        The next one must wait for the new process even if it gets here before the supervisor has
        heard of the death.
        """
        if self._serving is serving:
            self._serving = None

    async def _supervise(self, tokenizer_of: TokenizerOf) -> None:
        try:
            await self._keep_alive(tokenizer_of)
        except (ModelLoadError, LoadFailedError) as error:
            _log.debug("engine %d: %s", self.number, "\n".join(getattr(error, "__notes__", ())))
            self._refuse(LoadFailedError(f"The model could not be loaded: {error}"))
        except Exception as error:
            _log.exception("engine %d: cannot be supervised", self.number)
            self._refuse(LoadFailedError(f"The engine cannot be run: {error}"))

    async def _keep_alive(self, tokenizer_of: TokenizerOf) -> None:
        deaths = 0
        while True:
            self._ready_at = math.inf
            reason = await self._live(tokenizer_of)
            deaths = 1 if time.monotonic() - self._ready_at > QUIET_SECONDS else deaths + 1
            _log.error("engine %d: the process died: %s", self.number, reason)
            if deaths >= MAX_DEATHS:
                raise LoadFailedError(f"the engine process died {deaths} times; last: {reason}")
            await asyncio.sleep(self._backoff * 2 ** (deaths - 1))

    async def _live(self, tokenizer_of: TokenizerOf) -> str:
        """One engine process from its spawning to its death; returns why it died."""
        engine = self._engine = self._spawn()
        try:
            await engine.start()
            async with _beside(self._report_phases(engine)):
                await engine.wait_ready()
                tokenizer = await tokenizer_of(engine)
            self._announce(Serving(self, engine, tokenizer))
            async with _beside(self._report_passes(engine)):
                return await engine.wait_died()
        except EngineDiedError as error:
            return str(error)
        except ModelLoadError as error:
            if not self._was_ready:
                raise
            # What loaded once is short of something now, such as what the last process still held.
            return f"it could not be loaded again: {error}"
        finally:
            self._serving = self._engine = None
            await engine.close()

    def _announce(self, serving: Serving) -> None:
        info = serving.info
        _log.info(
            "engine %d: ready: %s, %.1fM parameters on %s, window %d, stages: %s; "
            "precision: %s, %s",
            *(self.number, info.model, info.num_parameters / 1e6, info.device),
            *(info.max_model_len, " <- ".join(("target", *info.stages))),
            *(info.dtype, info.precision),
        )
        self._serving, self._ready_at, self._was_ready = serving, time.monotonic(), True
        self._on_change()

    def _refuse(self, error: ApiError) -> None:
        self._serving, self.refusal = None, error
        self._on_change()

    async def _report_passes(self, engine: Engine) -> None:
        """Log how passes are run, now and whenever that changes."""
        told = None
        while True:
            info = engine.info
            if info and told != (told := (info.passes, info.is_compiling, info.refusals)):
                passes = {**info.passes, **{k: f"eager: {v}" for k, v in info.refusals.items()}}
                forms = ", ".join(f"{name} {form}" for name, form in passes.items())
                more = "; faster ones are being made" if info.is_compiling else ""
                _log.info("engine %d: passes: %s%s", self.number, forms, more)
            await asyncio.sleep(_POLL_SECONDS)

    async def _report_phases(self, engine: Engine) -> None:
        """Log each phase of loading with its seconds."""
        took = f"engine {self.number}: %s took %.1f s"
        phase, since = engine.progress.phase, time.monotonic()
        try:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                if engine.progress.phase != phase:
                    _log.info(took, phase, time.monotonic() - since)
                    phase, since = engine.progress.phase, time.monotonic()
        finally:
            if engine.info is not None:
                _log.info(took, phase, time.monotonic() - since)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have this done for as long as the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
