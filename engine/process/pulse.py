"""The heartbeat of an engine process."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

BEAT_SECONDS = 1.0


class Pulse:
    """Calls `beat` once a second, in a thread of its own, for as long as work gets on.

    So a process that is stopped is silent at once, and one that is stuck as soon as it has been so
    for longer than its work can take.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._until = 0.0
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
        self._until = time.monotonic() + seconds

    def _run(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            if time.monotonic() < self._until:
                self._beat()
