"""The program that compiles passes, in a process of its own, told by pickle what to do.

It loads the same engine, so that packages get the names that their user will look for; without a
configuration it loads none, and makes the kernels alone. It ends, with every compiler that it has
started, when the other end of its standard input is closed. For a folder there is one at work at a
time: the next finds what it has made.
"""

import contextlib
import fcntl
import os
import pickle
import signal
import sys
from dataclasses import replace
from pathlib import Path

from engine import program
from engine.code_cache import open_own
from engine.config import EngineConfig

_LOWEST_PRIORITY = 19
_LOCK_NAME = "compiler.lock"


def main() -> None:
    """Compile what is missing, package by package; exit status 1 if anything failed."""
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    config, folder = pickle.load(sys.stdin.buffer)
    # With all compilers that it has started, which are of its session.
    program.end_with_parent(lambda: os.killpg(0, signal.SIGKILL))
    for problem in (problems := _compile_alone(config, folder)):
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


def _compile_alone(config: EngineConfig | None, folder: Path) -> list[str]:
    try:
        lock = open_own(folder / _LOCK_NAME, "wb")
    except OSError as error:
        return [str(error)]
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _compile(config, folder)


def _compile(config: EngineConfig | None, folder: Path) -> list[str]:
    # These import torch, which need not wait in memory for its turn.
    from engine.acceleration import compile_passes
    from engine.api import Engine

    if config is None:
        return compile_passes({}, folder)
    engine = Engine.load(replace(config, compile="cached"))
    return compile_passes(engine.scorers, folder)
