"""A peer in a process of its own: neither its threads, its memory nor a crash touch another."""

import importlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

import torch

from benchmarks.peers.rows import OURS, Peer, Row, Setup, Task

_SETTLING_SECONDS = 0.05
"""Idle threads of the row before may spin for a moment when it has ended."""

_SPINS, _USUAL_SPINS = "GOMP_SPINCOUNT", "300000"
"""How long an OpenMP thread spins before it sleeps, and the default of GNU's, which is in use."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The tokens of a reply, of which `num_first` came first, and the seconds until and after."""

    tokens: tuple[int, ...]
    num_first: int
    first_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Label:
    """What is said of a row."""

    name: str
    precision: str
    about: str


_rows: dict[str, Row] = {}
"""Of the peer that this process belongs to."""


class Worker:
    """The handle on a peer's process; `labels` are its rows."""

    def __init__(self, peer: Peer, setup: Setup) -> None:
        """Start the process and load the peer; raises RuntimeError if that fails."""
        self.peer = peer
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with environment(peer):
            self.labels: list[Label] = self._pool.submit(_open, peer.room, setup).result()

    def run(self, row: str, tasks: Sequence[Task]) -> list[Reply]:
        """Do the tasks one after the other; raises RuntimeError if the row fails."""
        return self._pool.submit(_run, row, tasks).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def environment(peer: Peer) -> Iterator[None]:
    """Others' threads spin as long as they do by default; importing `engine` chose for ours."""
    before = os.environ.get(_SPINS)
    if peer is not OURS and "OMP_WAIT_POLICY" not in os.environ:
        os.environ[_SPINS] = _USUAL_SPINS
    try:
        yield
    finally:
        os.environ.pop(_SPINS, None)
        if before is not None:
            os.environ[_SPINS] = before


def versions(peer: Peer) -> dict[str, str]:
    """Of the packages behind a peer."""
    return {package: version(package) for package in peer.packages}


def _open(room: str, setup: Setup) -> list[Label]:
    torch.set_num_threads(setup.threads)
    try:
        rows: list[Row] = importlib.import_module(f"benchmarks.peers.{room}").rows(setup)
    except Exception as error:  # any library's, which need not survive being pickled
        raise RuntimeError(_one_line(error)) from None
    _rows.update({row.name: row for row in rows})
    return [Label(row.name, row.precision, row.about) for row in rows]


def _run(name: str, tasks: Sequence[Task]) -> list[Reply]:
    row = _rows[name]
    time.sleep(_SETTLING_SECONDS)
    try:
        row.begin()
        return [timed(row, task) for task in tasks]
    except Exception as error:
        raise RuntimeError(_one_line(error)) from None


def timed(row: Row, task: Task) -> Reply:
    """The one definition of time; raises RuntimeError for a reply of another length."""
    tokens: list[int] = []
    num_first = 0
    first = started = time.perf_counter()

    def emit(new: Sequence[int]) -> None:
        nonlocal first, num_first
        if not tokens:
            first, num_first = time.perf_counter(), len(new)
        tokens.extend(new)

    row.generate(task, emit)
    ended = time.perf_counter()
    if len(tokens) != task.num_tokens:
        raise RuntimeError(f"wrote {len(tokens)} tokens where {task.num_tokens} were asked for")
    return Reply(tuple(tokens), num_first, first - started, ended - first)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
