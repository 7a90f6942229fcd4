"""What every test can rely on: one thread, fixed seeds, no downloads, no GPU unless it exists."""

import inspect
import os
import random
import tempfile
from importlib.util import find_spec

# Before transformers is imported: a test that would download fails, here as in CI.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by pytest-timeout, where it is installed.
os.environ.setdefault("PYTEST_TIMEOUT", "300")
# Nor does any test start a compiler or find what an earlier run compiled, unless it is about that.
os.environ["STAGETREE_COMPILE"] = "never"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="stagetree-tests-")

import numpy as np
import pytest
import torch
from hypothesis import settings

from engine.config import EngineConfig

# The suite holds in every precision: whatever leaves it open runs in this one. What names one in a
# file is not to be overruled by the environment, as a server's file would be.
if DTYPE := os.environ.pop("STAGETREE_DTYPE", None):
    defaults = inspect.signature(EngineConfig.__init__).parameters.values()
    EngineConfig.__init__.__defaults__ = tuple(
        DTYPE if each.name == "dtype" else each.default
        for each in defaults
        if each.default is not each.empty
    )

# Before triton is imported, which reads it only then: without a GPU its programs run in Python.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tiny models run slower on several threads than on one, most of all beside other processes.
torch.set_num_threads(1)

# Speed is for benchmarks; and CI must find tomorrow what it found today. To look for more:
# make test ARGS=--hypothesis-profile=explore
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ci")


# The engine needs none of these, and a machine with a GPU may have torch and pytest alone. Tests
# that import them are left out there.
MISSING = [
    name
    for name in ("fastapi", "msgspec", "prometheus_client", "pydantic", "uvicorn", "zmq")
    if find_spec(name) is None
]
collect_ignore = ["server", "engine/test_process.py", "engine/test_trace.py"]
collect_ignore += ["test_http_page.py", "test_peers.py", "test_readme.py"]
if not MISSING:
    collect_ignore.clear()


def pytest_report_header() -> str | None:
    """Say what is not tested here."""
    if not MISSING:
        return None
    return f"left out, without {', '.join(MISSING)}: {', '.join(collect_ignore)}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
