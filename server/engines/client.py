"""Starts, watches and restarts one engine process, and speaks to the one that lives."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from engine import (
    Constraint,
    EngineDiedError,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    ModelLoadError,
    Update,
)
from server.engines.contract import Engine
from server.engines.log import EngineLog
from server.engines.seats import Seats
from server.errors import ApiError, DrainingError, LoadFailedError, NotReadyError
from server.tasks import beside

# So many deaths, none after a quiet spell of serving, are no accident.
MAX_DEATHS = 5
QUIET_SECONDS = 60.0
RETRY_AFTER = 2

Spawn = Callable[[], Engine]
"""Makes the handle of a fresh process."""
Prepare = Callable[[Engine], Awaitable[None]]
"""What is to be done with a process that has loaded, before it may serve.

Raises ModelLoadError or EngineDiedError.
"""


class EngineClient:
    """Keeps one engine process alive; mutable.

    `number` is what logs and metrics call it by, `engine` the process that lives now, if any, and
    `seats` are that one's, once it is ready. `refusal` is why it will never serve again, once that
    is known: `on_change` is called then, and whenever it can serve.
    """

    def __init__(
        self,
        number: int,
        spawn: Spawn,
        prepare: Prepare,
        on_change: Callable[[], None],
        backoff: float,
    ) -> None:
        self.number = number
        self.engine: Engine | None = None
        self.seats = Seats()
        self.is_serving = False
        self.refusal: ApiError | None = None
        self._spawn = spawn
        self._prepare = prepare
        self._on_change = on_change
        self._backoff = backoff
        self._log = EngineLog(number)
        self._ready_at = math.inf
        self._was_ready = False
        self._supervisor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin loading; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """End the engine process; whatever still runs or waits is refused."""
        if self.refusal is None:
            self._refuse(DrainingError("The server is shutting down."))
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    @property
    def info(self) -> ModelInfo:
        """What the engine says of itself; raises NotReadyError or LoadFailedError."""
        if self.is_serving and self.engine is not None and self.engine.info is not None:
            return self.engine.info
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)
        at = self.progress
        raise NotReadyError(
            f"The model is not ready yet: {at.phase}, {at.progress:.0%}.", retry_after=RETRY_AFTER
        )

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self.engine.progress if self.engine else LoadProgress("starting", 0.0)

    async def compile(self, constraint: Constraint) -> None:
        """Wait until requests may have it; raises InvalidRequestError for what none may have.

        What a dying process has not told it will tell whoever asks it to write.
        """
        with contextlib.suppress(EngineDiedError):
            if self.engine is not None:
                await self.engine.compile(constraint)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Update]:
        """Run one sequence; raises EngineDiedError when the process dies under it."""
        engine = self.engine
        try:
            if engine is None:
                raise EngineDiedError("The engine process died.")
            async with aclosing(engine.generate(request)) as updates:
                async for update in updates:
                    if update.finished is not None and update.finished.reason == "cancelled":
                        raise EngineDiedError("The engine gave this request up.")
                    yield update
        except EngineDiedError:
            # The next one must wait for the new process even if it gets here before the
            # supervisor has heard of the death.
            if self.engine is engine:
                self.is_serving = False
            if self.refusal is not None:
                raise self.refusal.with_traceback(None) from None
            raise

    async def _supervise(self) -> None:
        try:
            await self._keep_alive()
        except (ModelLoadError, LoadFailedError) as error:
            self._log.refused(error, is_foreseen=True)
            self._refuse(LoadFailedError(f"The model could not be loaded: {error}"))
        except Exception as error:
            self._log.refused(error, is_foreseen=False)
            self._refuse(LoadFailedError(f"The engine cannot be run: {error}"))

    async def _keep_alive(self) -> None:
        deaths = 0
        while True:
            self._ready_at = math.inf
            reason = await self._live()
            deaths = 1 if time.monotonic() - self._ready_at > QUIET_SECONDS else deaths + 1
            self._log.died(reason)
            if deaths >= MAX_DEATHS:
                raise LoadFailedError(f"the engine process died {deaths} times; last: {reason}")
            await asyncio.sleep(self._backoff * 2 ** (deaths - 1))

    async def _live(self) -> str:
        """One engine process from its spawning to its death; returns why it died."""
        engine = self.engine = self._spawn()
        try:
            await engine.start()
            async with beside(self._log.phases(engine)):
                info = await engine.wait_ready()
                await self._prepare(engine)
            self._announce(info)
            async with beside(self._log.passes(engine)):
                return await engine.wait_died()
        except EngineDiedError as error:
            return str(error)
        except ModelLoadError as error:
            if not self._was_ready:
                raise
            # What loaded once is short of something now, such as what the last process still held.
            return f"it could not be loaded again: {error}"
        finally:
            self.is_serving, self.engine, self.seats = False, None, Seats()
            await engine.close()

    def _announce(self, info: ModelInfo) -> None:
        self._log.ready(info)
        self.seats = Seats(info.num_seats, info.max_model_len)
        self.is_serving, self._ready_at, self._was_ready = True, time.monotonic(), True
        self._on_change()

    def _refuse(self, error: ApiError) -> None:
        self.is_serving, self.refusal = False, error
        self._on_change()
