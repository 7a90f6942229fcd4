"""Our own processes run nothing that stands in the working folder, and the engine that we run."""

import os
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from engine import program
from engine.acceleration import BackgroundCompiler
from engine.code_cache import cache_root, torch_caches
from engine.config import EngineConfig
from tests.engine.planted import plant


def compiling(model: Path, folder: Path) -> str:
    """What the compiling process says when it cannot do what it is told."""
    compiler = BackgroundCompiler(folder)
    assert compiler.start(EngineConfig(str(model), cache_dir=str(folder)), ["a network"])
    compiler.wait()
    assert not compiler.is_running
    assert "compiling them failed" in str(compiler.failure)
    return (folder / "compiler.log").read_text()


def test_the_compiling_process_runs_nothing_of_the_working_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for a compiler, too, of which there is none but the planted one.

    Nor is the engine there another than its parent's, or need it be installed.
    """
    (other := tmp_path / "engine").mkdir()
    (other / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ran = plant(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", str(tmp_path)]))
    monkeypatch.setenv("CXX", "g++")
    assert "No such file or directory: 'g++'" in compiling(checkpoint, tmp_path / "cache")
    assert not ran.exists(), ran.read_text()


def test_a_program_that_has_torch_compile_does_it_in_folders_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when headers or libraries come from the temporary files, which anybody writes to."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = {**os.environ}
    with program.own_environment():
        (folder,) = tmp_path.iterdir()
        assert Path(default_cache_dir()).is_relative_to(folder)
        assert Path(tempfile.gettempdir()) == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert Path(cache_dir()).is_relative_to(cache_root() / "torch")
        assert os.environ["PYTHONSAFEPATH"] == "1", "it starts `python -c`"
    assert dict(os.environ) == before and tempfile.gettempdir() == str(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_engine_of_a_program_keeps_code_where_its_configuration_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the folders of the command that starts it, by default or of its own, are kept."""
    for variable in torch_caches(tmp_path):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "users"))
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "home", tmp_path / "file"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        with program.own_environment():
            found = program.environment(tmp_path / "configured", tmp_path)
        assert found["TRITON_CACHE_DIR"] == str(tmp_path / "users")
        assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "configured/torch/inductor")


def test_without_room_for_temporary_files_a_program_is_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a read-only container cannot even print the version."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with program.own_environment():
        pass
