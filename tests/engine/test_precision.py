"""The precision: a rule that is known beforehand, and in words."""

import platform
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from engine import memory
from engine.api import Engine
from engine.config import EngineConfig
from engine.drafting.build import StageBuilder
from engine.errors import ConfigError
from engine.kernels import library
from engine.loading import choose_precision, load_model, precision
from engine.threads import THREADS
from engine.weights import Precision
from tests.checkpoints import make_model, make_network, save_checkpoint

CPU = torch.device("cpu")
SHAPE = LlamaConfig(num_hidden_layers=32, dtype=torch.bfloat16)
"""6.7 billion weights: 27 GB in float32, 40 while they are packed."""


@pytest.mark.parametrize("units", [(), ("avx512_bf16",), ("avx512_bf16", "amx_tile")], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, None], ids=str)
def test_a_cpu_computes_in_float32_whatever_its_instructions(
    units: tuple[str, ...], stored: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when one seed writes one text on one processor and another on the next."""
    for unit in ("avx512_bf16", "amx_tile"):
        name = f"_is_{unit}_supported"
        monkeypatch.setattr(torch.cpu, name, lambda unit=unit: unit in units)
    chosen = choose_precision("auto", CPU, LlamaConfig(num_hidden_layers=1, dtype=stored))
    assert chosen == Precision.of(torch.float32, "in which every CPU computes best here")


@pytest.mark.parametrize(
    ("gigabytes", "stored", "expected"),
    [
        (60, torch.bfloat16, torch.float32),
        (32, torch.bfloat16, torch.bfloat16),
        (32, torch.float32, torch.float32),
        (32, torch.float16, torch.float32),
    ],
)
def test_weights_that_would_not_fit_keep_their_bfloat16(
    gigabytes: int, stored: torch.dtype, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when they end a process for want of memory, or others are rounded to save some."""
    monkeypatch.setattr(precision, "total_bytes", lambda: gigabytes * 10**9)
    config = LlamaConfig(num_hidden_layers=32, dtype=stored)
    chosen = choose_precision("auto", CPU, config)
    assert chosen.dtype == expected
    if expected == torch.bfloat16:
        reason = "that of the checkpoint: float32 takes 40 GB while it loads, of 32 in all"
        assert chosen.reason == reason


@pytest.mark.parametrize(
    ("num_engines", "expected"), [(1, torch.float32), (2, torch.bfloat16)], ids=str
)
def test_engines_that_share_a_machine_share_its_memory(
    num_engines: int, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the second of two ends for want of memory."""
    monkeypatch.setattr(precision, "total_bytes", lambda: 60 * 10**9)
    chosen = choose_precision("auto", CPU, SHAPE, num_engines)
    assert chosen.dtype == expected
    assert chosen.reason.endswith(", of 60 in all for 2 engines") == (num_engines == 2)


@pytest.mark.parametrize("num_engines", [1, 2])
def test_an_engine_loads_all_of_its_models_for_its_part_of_the_machine(
    num_engines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a target or a draft is loaded as if the other engines were not there."""
    network = make_network().to(torch.bfloat16)
    network.save_pretrained(tmp_path)
    needed = 6 * sum(weight.numel() for weight in network.parameters())
    monkeypatch.setattr(precision, "total_bytes", lambda: 2 * needed)
    config = EngineConfig(str(tmp_path), num_engines=num_engines, threads=THREADS.num_threads)
    expected = torch.float32 if num_engines == 1 else torch.bfloat16
    assert Engine.load(config).info.dtype == str(expected).removeprefix("torch.")
    assert StageBuilder(config, make_model()).model(str(tmp_path)).dtype == expected


def test_a_container_has_the_memory_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a large host's memory is taken for that of a small container."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    machine = memory.total_bytes()
    assert machine is not None and machine > 10**9
    for content, expected in (("max\n", machine), (f"{10**9}\n", 10**9), (f"{10**15}", machine)):
        (tmp_path / "memory.max").write_text(content)
        assert memory.total_bytes() == expected


def test_what_is_asked_for_is_done_and_a_gpu_runs_the_checkpoints_own() -> None:
    gpu = torch.device("cuda")
    assert choose_precision("bfloat16", CPU, SHAPE) == Precision.of(torch.bfloat16, "as asked for")
    reason = "that of the checkpoint"
    assert choose_precision("auto", gpu, SHAPE) == Precision.of(torch.bfloat16, reason)
    for dtype in ("int8", "int4"):
        assert choose_precision(dtype, gpu, SHAPE).name == dtype
        with pytest.raises(ConfigError, match=f"dtype {dtype} is for cpu and cuda, not for mps"):
            choose_precision(dtype, torch.device("mps"), SHAPE)


def test_a_cpu_computes_in_the_bits_that_a_file_has() -> None:
    """Red when blocks are widened to be read slowly, or a GPU gets what was not asked for."""
    own = choose_precision("auto", CPU, SHAPE, blocks="int4")
    assert own == Precision("int4", torch.float32, "that of the file's blocks")
    assert choose_precision("float32", CPU, SHAPE, blocks="int4").name == "float32"
    assert choose_precision("auto", torch.device("cuda"), SHAPE, blocks="int4").name == "bfloat16"


def test_a_loaded_model_says_why(tmp_path: Path) -> None:
    """Red when what was chosen is not what was loaded."""
    save_checkpoint(tmp_path)
    given = {"device": "cpu", "max_model_len": 64, "chunk": 16}
    asked = [(name, "as asked for") for name in ("bfloat16", "int8", "int4")]
    for dtype, reason in (("auto", "in which every CPU"), *asked):
        model = load_model(str(tmp_path), dtype=dtype, **given)
        expected = choose_precision(dtype, CPU, AutoConfig.from_pretrained(tmp_path))
        assert model.precision == expected
        assert model.dtype == expected.dtype
        assert reason in model.precision.reason


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of this architecture's sets")
@pytest.mark.parametrize(
    ("capability", "architecture"),
    [(None, "native"), ("avx512", "native"), ("avx2", "x86-64-v3"), ("default", "x86-64")],
)
def test_kernels_use_no_more_instructions_than_torch_may(
    capability: str | None, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when what is compiled for fewer instructions has more, or shares a name with others."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    own = library.describe_machine.__wrapped__()
    if capability is not None:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert f"-march={architecture}" in library._command(Path("kernels.cpp"))
    assert (library.describe_machine.__wrapped__() == own) == (architecture == "native")
