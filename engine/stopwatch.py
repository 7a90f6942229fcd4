"""Milliseconds of the parts of a whole."""

import time


class Stopwatch:
    """Runs from when it is made; `laps` are the milliseconds of its parts by name."""

    __slots__ = ("_last", "_start", "laps")

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._start) * 1e3

    def lap(self, name: str) -> None:
        """What was done since the last lap, or the start, was this."""
        now = time.perf_counter()
        self.laps[name] = (now - self._last) * 1e3
        self._last = now
