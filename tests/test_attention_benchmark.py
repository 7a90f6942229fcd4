"""The benchmark of a tree's attention, as far as it goes without a GPU."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "attention.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(SCRIPT))


def test_without_a_gpu_it_says_that_it_needs_one() -> None:
    """Red when a machine without a GPU gets a traceback, or figures of something else."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, env=environment, timeout=100
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "benchmarks/attention.py needs a GPU that torch can use; there is none.\n"


def test_its_options_choose_the_cases(script: dict[str, Any]) -> None:
    """Red when an option is lost, or the cases that are measured by default change unseen."""
    asked = script["parse"]([])
    assert (asked.widths, asked.prefixes) == ([1, 8, 32, 64], [256, 2048, 8192, 32768])
    assert asked.models == ["llama-8b", "gpt2-large"]
    asked = script["parse"](["--models", "gpt2-large", "--widths", "3", "--prefixes", "5", "7"])
    assert (asked.models, asked.widths, asked.prefixes) == (["gpt2-large"], [3], [5, 7])
    with pytest.raises(SystemExit):
        script["parse"](["--models", "gpt5"])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_the_kernels_that_it_compares_compute_the_same(script: dict[str, Any]) -> None:
    """Red when one of them sees another part of the text or of the tree, and so is no match."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = script["Case"]("llama-8b", 7, 150)
    query = torch.randn(1, 7, 2, 64, device=device).transpose(1, 2)
    keys, values = torch.randn(2, 1, 1, 300, 64, device=device)
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        outputs = {
            name: kernel(query, keys, values)
            for name, kernel in script["kernels"](case, torch.float32, device).items()
        }
    assert set(outputs) == {"ours", "sdpa", "flex"}
    for output in outputs.values():
        assert torch.allclose(output, outputs["sdpa"], rtol=1e-4, atol=1e-4)
