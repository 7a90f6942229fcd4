"""What a pass costs by its number of rows: timed before the first request, then as passes run."""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np

WIDTHS = (1, 16, 4, 64, 2, 8, 32)
"""Rows of the passes that are timed at the start, those that tell most first."""

_ROUNDS = 6
_LEAST_WIDTHS = 2
_SLOWEST_RATE = 0.03
_PRIOR_WEIGHT = 3
_TIMED_WEIGHT = 10
_LARGEST_SURPRISE = 2.0
_LOAD_RATE = 0.2
_SMALLEST_TABLE = 96
_TABLE_LASTS = 16
"""Passes: to draw a table up takes longer than a step's prices may, and they change by little."""


class CostCurve:
    """Milliseconds by number of rows: what was measured, and straight lines in between.

    Every width that has been run is known for itself, so a step in the curve (9 rows may cost what
    16 do) is found where it lies. Beyond the widest, the curve goes on at its mean slope. A curve
    of which nothing is known is zero: what has never been tried is tried.
    """

    def __init__(self) -> None:
        self._widths: list[int] = []
        self._milliseconds: list[float] = []
        self._counts: list[int] = []
        self._table: list[float] = []
        self._table_age = 0

    def __call__(self, rows: int) -> float:
        """Milliseconds of a pass over so many rows."""
        widths, known = self._widths, self._milliseconds
        if not widths:
            return 0.0
        place = bisect_left(widths, rows)
        if place == len(widths):
            return known[-1] + self._mean_slope() * (rows - widths[-1])
        if widths[place] == rows or place == 0:
            return known[place]
        low, high = widths[place - 1], widths[place]
        share = (rows - low) / (high - low)
        return (1 - share) * known[place - 1] + share * known[place]

    @property
    def is_known(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._widths)

    def table(self, start: int, count: int) -> list[float]:
        """Milliseconds of passes over `start`, `start + 1`, ... rows: so many of them.

        As they were some passes ago, at most.
        """
        end = start + count
        if self._table_age >= _TABLE_LASTS or end > len(self._table):
            last = max(end, _SMALLEST_TABLE)
            inside = bisect_left(self._widths, last)
            widths = [*self._widths[:inside], last]
            known = [*self._milliseconds[:inside], self(last)]
            self._table = np.interp(np.arange(last + 1), widths, known).tolist()
            self._table_age = 0
        return self._table[start:end]

    def replace(self, measured: Mapping[int, float]) -> None:
        """Forget everything, then take these milliseconds by rows."""
        self._widths = sorted(measured)
        self._milliseconds = [measured[rows] for rows in self._widths]
        self._counts = [_TIMED_WEIGHT] * len(measured)
        self._table = []

    def observe(self, rows: int, milliseconds: float) -> None:
        """Learn from one pass, by a mean that fades; an outlier moves it by little."""
        expected = self(rows)
        place = bisect_left(self._widths, rows)
        if place == len(self._widths) or self._widths[place] != rows:
            self._widths.insert(place, rows)
            self._milliseconds.insert(place, expected or milliseconds)
            self._counts.insert(place, 0)
        self._counts[place] += 1
        if expected > 0:
            rate = max(_SLOWEST_RATE, 1 / (_PRIOR_WEIGHT + self._counts[place]))
            ratio = clipped(milliseconds / expected)
            self._milliseconds[place] *= 1 + rate * (ratio - 1)
        # What was free until now is no longer.
        self._table_age += 1 if expected > 0 else _TABLE_LASTS

    def _mean_slope(self) -> float:
        span = self._widths[-1] - self._widths[0]
        rise = self._milliseconds[-1] - self._milliseconds[0]
        return max(0.0, rise / span) if span else 0.0


class Costs:
    """The curves of all networks of an engine, by name, and how busy the machine is now.

    `load` is a factor common to all curves: other work on the machine slows down every pass, those
    too that are not being run, and must not look like a dear choice of width.
    """

    def __init__(self) -> None:
        self.load = 1.0
        self._curves: dict[str, CostCurve] = {}

    def curve(self, name: str) -> CostCurve:
        """The curve of this name, in the milliseconds of an idle machine."""
        if (curve := self._curves.get(name)) is None:
            curve = self._curves[name] = CostCurve()
        return curve

    def observe(self, name: str, rows: int, milliseconds: float) -> None:
        """Learn from one pass."""
        curve = self.curve(name)
        if (expected := curve(rows) * self.load) > 0:
            self.load *= clipped(milliseconds / expected) ** _LOAD_RATE
        curve.observe(rows, milliseconds / self.load)

    def forget(self) -> None:
        """Nothing is known any more: passes now run in another way."""
        self.load = 1.0
        self._curves = {}


def clipped(ratio: float) -> float:
    """No single pass may surprise by more than this."""
    return min(max(ratio, 1 / _LARGEST_SURPRISE), _LARGEST_SURPRISE)


def time_passes(run: Callable[[int], object], seconds: float) -> dict[int, float]:
    """Milliseconds of `run(rows)` by rows: the least of some rounds over all widths.

    Whatever else runs on the machine only ever adds to a time, and is unlikely to add to all of a
    width's. After `seconds` no more is timed; the first two widths always are.
    """
    measured: dict[int, float] = {}
    run(1)
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        for rows in WIDTHS:
            if len(measured) >= _LEAST_WIDTHS and time.perf_counter() - started > seconds:
                return measured
            measured[rows] = min(measured.get(rows, math.inf), _milliseconds(run, rows))
    return measured


def _milliseconds(run: Callable[[int], object], rows: int) -> float:
    started = time.perf_counter()
    run(rows)
    return (time.perf_counter() - started) * 1e3
