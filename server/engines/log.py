"""What the log tells of one engine process, from its loading to its death."""

import asyncio
import logging
import time

from engine import ModelInfo, short_name
from server.engines.contract import Engine

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


class EngineLog:
    """Tells of the engine with this number."""

    def __init__(self, number: int) -> None:
        self._name = f"engine {number}"

    def ready(self, info: ModelInfo) -> None:
        """It can serve."""
        _log.info(
            "%s: ready: %s, %.1fM parameters on %s, window %d, stages: %s; precision: %s, %s; "
            "seats: %d, %s",
            *(self._name, short_name(info.model), info.num_parameters / 1e6, info.device),
            *(info.max_model_len, " <- ".join(("target", *info.stages))),
            *(info.dtype, info.precision, info.num_seats, info.seating),
        )

    def died(self, reason: str) -> None:
        """Its process has ended."""
        _log.error("%s: the process died: %s", self._name, reason)

    def refused(self, error: Exception, is_foreseen: bool) -> None:
        """It will not be tried again; what nobody foresaw is told with its traceback."""
        if is_foreseen:
            _log.debug("%s: %s", self._name, "\n".join(getattr(error, "__notes__", ())))
        else:
            _log.error("%s: cannot be supervised", self._name, exc_info=error)

    async def phases(self, engine: Engine) -> None:
        """Tell each phase of loading with its seconds."""
        told = f"{self._name}: %s took %.1f s"
        phase, since = engine.progress.phase, time.monotonic()
        try:
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                if engine.progress.phase != phase:
                    _log.info(told, phase, time.monotonic() - since)
                    phase, since = engine.progress.phase, time.monotonic()
        finally:
            if engine.info is not None:
                _log.info(told, phase, time.monotonic() - since)

    async def passes(self, engine: Engine) -> None:
        """Tell how passes are run, now and whenever that changes."""
        told = None
        while True:
            info = engine.info
            if info and told != (told := (info.passes, info.is_compiling, info.refusals)):
                passes = {**info.passes, **{k: f"eager: {v}" for k, v in info.refusals.items()}}
                forms = ", ".join(f"{name} {form}" for name, form in passes.items())
                more = "; faster ones are being made" if info.is_compiling else ""
                _log.info("%s: passes: %s%s", self._name, forms, more)
            await asyncio.sleep(_POLL_SECONDS)
