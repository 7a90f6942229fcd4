"""Our own processes run nothing that stands in the working folder, and the engine that we run."""

import os
from pathlib import Path

import pytest

from engine import program
from engine.config import EngineConfig
from engine.passes.background import BackgroundCompiler
from tests.engine.planted import plant


def compiling(model: Path, folder: Path) -> str:
    """What the compiling process says when it cannot do what it is told."""
    compiler = BackgroundCompiler(folder)
    assert compiler.start(EngineConfig(str(model), cache_dir=str(folder)), ["a network"])
    compiler.wait()
    assert not compiler.is_running
    return (folder / "compiler.log").read_text()


def test_the_compiling_process_runs_nothing_of_the_working_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for a compiler, too, of which there is none but the planted one."""
    ran = plant(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", str(tmp_path)]))
    monkeypatch.setenv("CXX", "g++")
    assert "No such file or directory: 'g++'" in compiling(checkpoint, tmp_path / "cache")
    assert not ran.exists(), ran.read_text()


def test_the_compilers_that_torch_starts_run_nothing_of_the_working_folder() -> None:
    """Red when the safe path ends with our own process: torch starts `python -c`."""
    assert program.environment()["PYTHONSAFEPATH"] == "1"


def test_a_process_finds_the_engine_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when it must be installed, or may be another than its parent's."""
    (other := tmp_path / "engine").mkdir()
    (other / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "ModelLoadError" in compiling(tmp_path / "nothing", tmp_path / "cache")
