"""Passes leave their threads for a while when somebody else wants the cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import threads
from engine.api import Engine
from engine.config import EngineConfig
from engine.program import short_spins
from engine.threads import THREADS, Threads


class Machine:
    """A clock, and how many threads torch was told to use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.threads, self.is_crowded = 0.0, 4, False
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.set_num_threads)
        self.passes = Threads()

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads

    def work(self) -> int:
        late = self.is_crowded and self.threads > 1
        self.now += 0.010 if late else 0.001 if self.threads > 1 else 0.002
        return self.threads

    def run(self, seconds: float) -> list[int]:
        """The threads of the passes of so much time."""
        end, used = self.now + seconds, []
        while self.now < end:
            used.append(self.passes.run(1, self.work))
        return used

    def be_late_once(self) -> None:
        """One pass in a crowd."""
        self.is_crowded = True
        self.passes.run(1, self.work)
        self.is_crowded = False


def test_in_a_crowd_passes_run_on_one_thread_and_now_and_then_try_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch)
    assert set(machine.run(1.0)) == {4}
    machine.is_crowded = True
    used = machine.run(10.0)
    assert 2 <= used.count(4) <= 10
    machine.is_crowded = False
    machine.run(2.5)
    assert set(machine.run(1.0)) == {4}


def test_one_late_pass_costs_the_threads_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.run(1.0)
    machine.be_late_once()
    assert (machine.threads, machine.passes.num_threads) == (1, 4)
    machine.run(0.06)
    assert set(machine.run(1.0)) == {4}


def test_a_number_that_is_asked_for_holds_in_a_crowd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.run(1.0)
    machine.be_late_once()
    machine.passes.set_num_threads(3)
    assert set(machine.run(1.0)) == {3}


@pytest.mark.parametrize(("threads", "num_engines", "expected"), [(0, 2, 2), (0, 9, 1), (3, 2, 3)])
def test_engines_of_one_machine_part_its_threads_unless_told_how_many(
    checkpoint: Path, threads: int, num_engines: int, expected: int
) -> None:
    """Red when several engines together compute with more threads than one alone."""
    THREADS.set_num_threads(4)
    try:
        Engine.load(EngineConfig(str(checkpoint), threads=threads, num_engines=num_engines))
        assert THREADS.num_threads == expected
    finally:
        THREADS.set_num_threads(1)


def unsaid() -> dict[str, str]:
    """The environment of a user who has said nothing of OpenMP's threads."""
    return {name: value for name, value in os.environ.items() if "OMP_" not in name}


def loaded(module: str) -> tuple[str | None, str]:
    """The spin count a fresh interpreter has after an import, and what OpenMP says it has read."""
    program = f"import os, {module}; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**unsaid(), "OMP_DISPLAY_ENV": "verbose"},
    )
    told = done.stdout.strip()
    return None if told == "None" else told, done.stderr


def test_threads_of_a_process_that_computes_do_not_spin_for_long() -> None:
    """Red when the count is set after torch has been loaded, which then has read another."""
    told, said = loaded("engine.api, torch")
    assert told == "1000"
    if "GOMP_SPINCOUNT" in said:  # not every OpenMP has such a count
        assert "GOMP_SPINCOUNT = '1000'" in said


WATCH = """
import os, sys
class Watch:
    def find_spec(name, *_):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch)
import """


@pytest.mark.parametrize("module", ["engine.training", "engine.benchmark"])
def test_other_doors_tell_torch_so_too(module: str) -> None:
    """Red when the count is not there as soon as somebody begins to load torch."""
    command = [sys.executable, "-c", WATCH + module]
    done = subprocess.run(command, capture_output=True, text=True, env=unsaid())
    assert done.stdout == "1000\n", done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "5"), ("OMP_WAIT_POLICY", "PASSIVE")]
)
def test_threads_spin_as_the_user_says(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(each, raising=False)
    assert short_spins() == {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setenv(name, value)
    assert short_spins() == {}


def test_the_front_door_leaves_the_environment_alone() -> None:
    """Red when a server, which computes nothing, hands the count down to whatever it starts."""
    assert loaded("engine, engine.process")[0] is None
