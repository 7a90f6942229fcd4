"""What every test can rely on: one thread, fixed seeds, no downloads, no GPU unless it exists."""

import os
import random
import tempfile

# Before transformers is imported: a test that would download fails, here as in CI.
os.environ["HF_HUB_OFFLINE"] = "1"
# Nor does any test start a compiler or find what an earlier run compiled, unless it is about that.
os.environ["STAGETREE_COMPILE"] = "never"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="stagetree-tests-")

import numpy as np
import pytest
import torch
from hypothesis import settings

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
