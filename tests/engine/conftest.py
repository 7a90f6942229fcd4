"""What several tests of the engine need and is long in the making."""

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
def loaded_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kernels are loaded; no network's passes are compiled."""
    if not kernels.is_loaded():
        folder = tmp_path_factory.mktemp("kernels")
        kernels.build(folder)
        assert kernels.load(folder)


@pytest.fixture(scope="session")
def cache(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the kernels and that target's package, by the real compiling process.

    The kernels are loaded, too.
    """
    folder = tmp_path_factory.mktemp("cache")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        engine = Engine.load(compiling_config(checkpoint, folder, compile="wait"))
    log = (folder / "passes/compiler.log").read_text()
    assert engine.info.passes == {"target": "compiled"}, log
    assert not engine.info.is_compiling
    assert kernels.is_loaded()
    return folder
