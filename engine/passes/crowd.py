"""How many threads to compute with when somebody else wants the cores too."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

import torch

_T = TypeVar("_T")
_LATE = 3.0
"""So many times its shortest time a pass takes only if one of its threads had no core."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Crowd:
    """Runs passes on one thread for a while after one that took far longer than it can.

    The threads of a pass wait for one another dozens of times in it. If one of them has to share
    its core, that is what all the time goes into: beside one busy process on two cores passes of
    1 ms took 8, and on one thread 1.4. As long as it is crowded, the pauses grow.
    """

    def __init__(self) -> None:
        self._num_threads = torch.get_num_threads()
        self._shortest: dict[int, float] = {}
        self._pause = _SHORTEST_PAUSE
        self._end = -math.inf
        self._is_alone = False

    def run(self, width: int, compute: Callable[[], _T]) -> _T:
        """The result of a pass over so many rows."""
        started = time.perf_counter()
        if self._is_alone and started >= self._end:
            self._is_alone = False
            torch.set_num_threads(self._num_threads)
        result = compute()
        if self._num_threads > 1 and not self._is_alone:
            self._judge(width, started, time.perf_counter())
        return result

    def _judge(self, width: int, started: float, ended: float) -> None:
        seconds = ended - started
        shortest = self._shortest[width] = min(seconds, self._shortest.get(width, math.inf))
        if seconds < _LATE * shortest:
            self._pause = max(_SHORTEST_PAUSE, self._pause / 2)
            return
        self._is_alone = True
        self._end = ended + self._pause
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        torch.set_num_threads(1)
