"""Starts, watches and restarts the engine process, and says whether it can serve."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from engine import (
    EngineDiedError,
    Finished,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    ModelLoadError,
    Step,
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

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Finished]:
        """One sequence, step by step; closing the iterator cancels it and frees the engine."""

    def cancel(self, request_id: str) -> None:
        """End a request's stream early, by its own Finished."""

    async def wait_died(self) -> str:
        """Wait for the process to die or fall silent; returns why."""

    async def close(self) -> None:
        """End the process."""


@dataclass(frozen=True, slots=True)
class Serving:
    """An engine that can serve, with what is needed to speak to it."""

    engine: Engine
    tokenizer: Tokenizer

    @property
    def info(self) -> ModelInfo:
        """What the engine says of itself."""
        assert self.engine.info is not None
        return self.engine.info


class EngineClient:
    """Keeps one engine process alive; `spawn` makes the handle of a fresh one."""

    def __init__(
        self,
        spawn: Callable[[], Engine],
        load_tokenizer: Callable[[], Tokenizer],
        backoff: float = 0.5,
    ) -> None:
        self._spawn = spawn
        self._load_tokenizer = load_tokenizer
        self._backoff = backoff
        self._engine: Engine | None = None
        self._ready_at = math.inf
        self._serving: Serving | None = None
        self._refusal: ApiError | None = None
        self._changed = asyncio.Condition()
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin loading; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """End the engine process; whatever still runs or waits is refused."""
        await self._refuse(DrainingError("The server is shutting down."))
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    @property
    def serving(self) -> Serving:
        """The engine, if it can serve now; raises NotReadyError or LoadFailedError."""
        if self._serving is not None:
            return self._serving
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        at = self.progress
        raise NotReadyError(
            f"The model is not ready yet: {at.phase}, {at.progress:.0%}.", retry_after=RETRY_AFTER
        )

    @property
    def info(self) -> ModelInfo | None:
        """What the loaded model says of itself; None while it cannot serve."""
        return self._serving.info if self._serving else None

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self._engine.progress if self._engine else LoadProgress("starting", 0.0)

    async def wait_serving(self) -> Serving:
        """Wait until the engine can serve; raises once it is known that it never will."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._serving or self._refusal)
        return self.serving

    async def generate(
        self, serving: Serving, request: GenerateRequest
    ) -> AsyncGenerator[Step | Finished]:
        """Run one sequence; raises EngineDiedError when the process dies under it."""
        try:
            async with aclosing(serving.engine.generate(request)) as items:
                async for item in items:
                    if isinstance(item, Finished) and item.reason == "cancelled":
                        raise EngineDiedError("The engine gave this request up.")
                    yield item
        except EngineDiedError:
            if self._refusal is not None:
                raise self._refusal.with_traceback(None) from None
            # The next request must wait for the new process even if it gets here before the
            # supervisor has heard of the death.
            if self._serving is serving:
                self._serving = None
            raise

    async def _supervise(self) -> None:
        try:
            tokenizer = asyncio.create_task(asyncio.to_thread(self._load_tokenizer))
            await self._keep_alive(tokenizer)
        except (ModelLoadError, LoadFailedError) as error:
            _log.error("the model cannot be loaded: %s", error)
            await self._refuse(LoadFailedError(f"The model could not be loaded: {error}"))
        except Exception as error:
            _log.exception("the engine cannot be supervised")
            await self._refuse(LoadFailedError(f"The engine cannot be run: {error}"))

    async def _keep_alive(self, tokenizer: "asyncio.Task[Tokenizer]") -> None:
        deaths = 0
        while True:
            self._ready_at = math.inf
            reason = await self._live(tokenizer)
            deaths = 1 if time.monotonic() - self._ready_at > QUIET_SECONDS else deaths + 1
            _log.error("the engine process died: %s", reason)
            if deaths >= MAX_DEATHS:
                raise LoadFailedError(f"the engine process died {deaths} times; last: {reason}")
            await asyncio.sleep(self._backoff * 2 ** (deaths - 1))

    async def _live(self, tokenizer: "asyncio.Task[Tokenizer]") -> str:
        """One engine process from its spawning to its death; returns why it died."""
        engine = self._engine = self._spawn()
        try:
            await engine.start()
            reporter = asyncio.create_task(self._report_phases(engine))
            try:
                _, known = await asyncio.gather(engine.wait_ready(), asyncio.shield(tokenizer))
            finally:
                reporter.cancel()
                await asyncio.gather(reporter, return_exceptions=True)
            await self._announce(Serving(engine, known))
            return await engine.wait_died()
        except EngineDiedError as error:
            return str(error)
        finally:
            self._serving = None
            await engine.close()

    async def _announce(self, serving: Serving) -> None:
        info = serving.info
        _log.info(
            "ready: %s, %.1fM parameters, %s on %s, window %d, stages: %s",
            *(info.model, info.num_parameters / 1e6, info.dtype, info.device, info.max_model_len),
            " <- ".join(("target", *info.stages)),
        )
        async with self._changed:
            self._serving, self._ready_at = serving, time.monotonic()
            self._changed.notify_all()

    async def _refuse(self, error: ApiError) -> None:
        async with self._changed:
            self._serving, self._refusal = None, error
            self._changed.notify_all()

    async def _report_phases(self, engine: Engine) -> None:
        """Log each phase of loading with its seconds."""
        phase, since = engine.progress.phase, time.monotonic()
        try:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                if engine.progress.phase != phase:
                    _log.info("%s took %.1f s", phase, time.monotonic() - since)
                    phase, since = engine.progress.phase, time.monotonic()
        finally:
            _log.info("%s took %.1f s", phase, time.monotonic() - since)
