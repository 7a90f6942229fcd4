"""The program that compiles passes: `python -m engine.compiling`, told by pickle what to do.

It loads the same engine, so that packages get the names that their user will look for, and ends,
with every compiler that it has started, when the other end of its standard input is closed. For a
folder there is one at work at a time: the next finds what it has made.
"""

import contextlib
import fcntl
import os
import pickle
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from engine.config import EngineConfig

_LOWEST_PRIORITY = 19
_LOCK_NAME = "compiler.lock"


def main() -> None:
    """Compile what is missing, package by package; exit status 1 if anything failed."""
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    config, folder = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with (folder / _LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        problems = _compile(config, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def _compile(config: EngineConfig, folder: Path) -> list[str]:
    from engine.api import Engine  # imports torch, which need not wait in memory for its turn

    engine = Engine.load(replace(config, compile="cached"))
    return engine.compile_passes(folder)


def _end_with_parent() -> None:
    """Wait for the end of the pipe, and take the compilers along, which are of this session."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
