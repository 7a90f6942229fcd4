"""What several tests of the engine need and is long in the making."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import kernels
from engine.api import Engine
from tests.checkpoints import save_checkpoint
from tests.engine.setups import compiling_config


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target."""
    return save_checkpoint(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of a run, for what is compiled, which takes longer than most files.

    A worker's temporary folder lies in the run's.
    """
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def cache_folder(run_folder: Path) -> Path:
    """Where the kernels are and, once `cache` has been asked for, a package."""
    (run_folder / "cache" / "temporary").mkdir(parents=True, exist_ok=True)
    return run_folder / "cache"


@contextmanager
def only_compiler(folder: Path) -> Iterator[None]:
    """What another worker is compiling is waited for, and not compiled again."""
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def loaded_kernels(cache_folder: Path) -> None:
    """The kernels are loaded; no network's passes are compiled."""
    if not kernels.is_loaded():
        with only_compiler(cache_folder):
            kernels.build(cache_folder / "passes")
        assert kernels.load(cache_folder / "passes")


@pytest.fixture(scope="session")
def cache(checkpoint: Path, cache_folder: Path) -> Path:
    """A cache folder with the kernels and that target's package, by the real compiling process.

    The kernels are loaded, too.
    """
    with only_compiler(cache_folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(cache_folder / "temporary"))
        engine = Engine.load(compiling_config(checkpoint, cache_folder, compile="wait"))
    log = (cache_folder / "passes/compiler.log").read_text()
    assert engine.info.passes == {"target": "compiled"}, log
    assert not engine.info.is_compiling
    assert kernels.is_loaded()
    return cache_folder
