"""Ctrl-C held back until the work in hand is whole, so that one can go on from what is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or SIGTERM came; a second one is not held back.

    Only the main thread hears of signals; elsewhere none is held back.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    earlier = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        restore()
