"""The one command for a GPU: it goes on after a failure, and its rehearsal runs every part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def script(*arguments: str | Path, python: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "benchmarks/gpu.sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(python)},
    )


def test_a_part_that_fails_stops_none_of_the_others(tmp_path: Path) -> None:
    """Red when a failure ends the run, is not told at its end, or leaves nothing behind."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $*\ncase $1 in *passes.py) exit 3;; esac\n")
    python.chmod(0o755)
    results = tmp_path / "results"
    done = script("--smoke", results, "passes", "step", python=python)
    assert done.returncode == 1
    assert "failed: passes (3)" in done.stdout
    assert "step: exit 0" in done.stdout and "paper" not in done.stdout
    assert (results / "gpu.log").read_text() == done.stdout


def test_it_says_how_it_is_used() -> None:
    """Red when a command without a folder writes somewhere, or says nothing."""
    done = script(python="false")
    assert done.returncode == 2 and "benchmarks/gpu.sh RESULTS" in done.stdout


@pytest.mark.slow
def test_a_rehearsal_runs_every_part_and_leaves_few_files(tmp_path: Path) -> None:
    """Red when a command that a GPU will be asked to run has other arguments than it knows."""
    done = script("--smoke", tmp_path, python=sys.executable)
    assert done.returncode == 0, done.stdout[-4000:]
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) <= 8
    for part in ("tests", "passes", "paper", "step", "load"):
        assert f"==> {part}: exit 0" in done.stdout
    shape = json.loads((tmp_path / "step.json").read_text())["shapes"]["tiny"]
    assert shape["phases"]["staged"]["nodes"] > 1
    assert shape["work"]["plain"]["kernels"]
