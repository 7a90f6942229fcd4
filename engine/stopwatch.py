"""Milliseconds of the parts of a whole."""

import time


class Stopwatch:
    """Runs from when it is made."""

    __slots__ = ("_last", "_start")

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    @property
    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._start) * 1e3

    def lap(self) -> float:
        """Milliseconds since the last lap, or the start."""
        last, self._last = self._last, time.perf_counter()
        return (self._last - last) * 1e3
