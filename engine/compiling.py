"""The program that compiles passes: `python -m engine.compiling`, told by pickle what to do.

It loads the same engine, so that packages get the names that their user will look for, and ends,
with every compiler that it has started, when the other end of its standard input is closed.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
from dataclasses import replace

from engine.api import Engine

_LOWEST_PRIORITY = 19


def main() -> None:
    """Compile what is missing, package by package; exit status 1 if anything failed."""
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    config, folder = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    engine = Engine.load(replace(config, compile="cached"))
    problems = engine.compile_passes(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def _end_with_parent() -> None:
    """Wait for the end of the pipe, and take the compilers along, which are of this session."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
