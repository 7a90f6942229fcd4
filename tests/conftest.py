"""What every test can rely on: one thread, seeded generators, no GPU unless asked for."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

# Tiny models run slower on several threads than on one, most of all beside other processes.
torch.set_num_threads(1)

# Speed is for benchmarks; and CI must find tomorrow what it found today.
settings.register_profile("stagetree", deadline=None, derandomize=True)
settings.load_profile("stagetree")


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
