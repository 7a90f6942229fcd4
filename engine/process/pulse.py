"""The heartbeat of an engine process."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

BEAT_SECONDS = 1.0
_COMPUTING = 0.05
"""Seconds of a processor from one beat to the next, of a process that gets on with something."""
_MOVING = 2**13
"""Bytes likewise, far more than a beat itself moves."""
_MOVED = Path("/proc/self/io")


class Pulse:
    """Calls `beat` once a second, in a thread of its own, for as long as work gets on.

    So a process that is stopped is silent at once, and one that is stuck as soon as it has been so
    for longer than its work can take.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._until = 0.0
        self._idle_seconds = math.inf
        self._used, self._moved = 0.0, 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def expect(self, seconds: float) -> None:
        """Work begins that takes so long at most, unless it is stuck."""
        self._until, self._idle_seconds = time.monotonic() + seconds, math.inf

    def expect_progress(self, seconds: float) -> None:
        """Work begins that may take any time, but for so long never neither computes nor moves.

        So what computes gets on, and so does a download, however slow; what waits for nothing does
        not.
        """
        self._until, self._idle_seconds = time.monotonic() + seconds, seconds

    def _run(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            now, used, moved = time.monotonic(), time.process_time(), _bytes_moved()
            gets_on = used - self._used > _COMPUTING or moved - self._moved > _MOVING
            if gets_on and self._idle_seconds < math.inf:
                self._until = now + self._idle_seconds
            self._used, self._moved = used, moved
            if now < self._until:
                self._beat()


def _bytes_moved() -> int:
    """What this process has read and written so far, of files; 0 where Linux does not tell."""
    try:
        told = dict(line.split(": ") for line in _MOVED.read_text().splitlines())
    except OSError:
        return 0
    return int(told["rchar"]) + int(told["wchar"])
