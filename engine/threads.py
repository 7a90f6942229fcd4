"""The threads of this process: how many compute while somebody else wants the cores too."""

import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

_T = TypeVar("_T")
_LATE = 3.0
"""So many times its shortest time a pass takes only if one of its threads had no core."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Threads:
    """Runs passes on one thread for a while after one that took far longer than it can.

    The threads of a pass wait for one another dozens of times in it. If one of them has to share
    its core, that is what all the time goes into: beside one busy process on two cores passes of
    1 ms took 8, and on one thread 1.4. As long as it is crowded, the pauses grow. torch's threads
    are those of the process, and so is this object: `THREADS`.
    """

    def __init__(self) -> None:
        self._shortest: dict[Hashable, float] = {}
        self._pause = _SHORTEST_PAUSE
        self._end = -math.inf
        self._set_aside = 0

    @property
    def num_threads(self) -> int:
        """The threads to compute with when there is room for them."""
        return self._set_aside or torch.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        """Compute with so many from now on."""
        self._set_aside = 0
        self._shortest.clear()
        torch.set_num_threads(num_threads)

    def run(self, kind: Hashable, compute: Callable[[], _T]) -> _T:
        """The result of a pass, of a kind that takes about as long each time."""
        started = time.perf_counter()
        if self._set_aside and started >= self._end:
            torch.set_num_threads(self._set_aside)
            self._set_aside = 0
        result = compute()
        if not self._set_aside and torch.get_num_threads() > 1:
            self._judge(kind, started, time.perf_counter())
        return result

    def _judge(self, kind: Hashable, started: float, ended: float) -> None:
        seconds = ended - started
        shortest = self._shortest[kind] = min(seconds, self._shortest.get(kind, math.inf))
        if seconds < _LATE * shortest:
            self._pause = max(_SHORTEST_PAUSE, self._pause / 2)
            return
        self._set_aside = torch.get_num_threads()
        self._end = ended + self._pause
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        torch.set_num_threads(1)


THREADS = Threads()
