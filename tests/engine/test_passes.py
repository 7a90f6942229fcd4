"""Compiled and packed passes: the eager ones' figures, taken over when they are there."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.api import Engine
from engine.attention import DenseMasks
from engine.config import NgramStageConfig
from engine.kernels import linear
from engine.passes import PackedLinear, pack
from engine.passes.background import BackgroundCompiler
from engine.passes.package import Package, fingerprint
from engine.passes.packed import KernelLinear
from engine.request import GenerateRequest, SamplingParams, Step
from engine.tree import TokenTree
from tests.checkpoints import VOCAB_SIZE, make_model, make_network, save_checkpoint
from tests.engine.setups import compiling_config as config

PROMPT = tuple(1 + i * 7 % 50 for i in range(30))
WIDTHS = (1, 2, 15, 16, 33, 64, 80)


def tree_of(width: int) -> TokenTree:
    """A tree whose nodes have two children each, as far as they last."""
    tree = TokenTree(PROMPT[-1])
    for node in range(1, width):
        tree.add((node - 1) // 2, 1 + node % 50)
    return tree


@pytest.mark.parametrize("with_kernels", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_weights_compute_the_same_and_can_be_had_back(
    cache: Path, kind: str, precision: str, with_kernels: bool
) -> None:
    """In whatever precision they can be kept: all is float32 to who asks."""
    network = make_network(kind)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(weight.to(getattr(torch, precision)))
    inputs = torch.randint(VOCAB_SIZE, (1, 9))
    expected = network(input_ids=inputs, tree_masks=_causal(9)).logits
    weight = network.get_output_embeddings().weight.clone()
    pack(network, with_kernels=False)
    pack(network, with_kernels)
    linears = [each for each in network.modules() if isinstance(each, PackedLinear)]
    assert len(linears) > 4
    for each in linears:
        assert isinstance(each, KernelLinear) == with_kernels
        share = 2 if with_kernels and precision == "bfloat16" else 4
        assert each.num_bytes >= share * each.in_features * each.out_features
    with torch.inference_mode():
        output = network(input_ids=inputs, tree_masks=_causal(9)).logits
    assert torch.allclose(output, expected, atol=1e-5)
    assert torch.equal(network.get_output_embeddings().weight, weight)


@pytest.mark.parametrize("rows", [2, 5, 6, 7, 13, 64])
def test_rows_of_a_product_do_not_change_one_another(cache: Path, rows: int) -> None:
    """To the bit: a tree's node scores as it does alone, as far as linear layers go."""
    inputs = torch.randn(rows, 130)
    panels = linear.pack(torch.randn(70, 130))
    together = linear.multiply(inputs, panels, None, 70)
    for row in range(rows):
        alone = linear.multiply(inputs[row : row + 1], panels, None, 70)
        assert torch.equal(alone[0], together[row])


def _causal(size: int) -> DenseMasks:
    mask = torch.full((1, 1, size, size), float("-inf")).triu(1)
    return DenseMasks(mask)


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be spoilt."""
    return Path(shutil.copytree(cache, tmp_path / "copy"))


def text(engine: Engine, seed: int, temperature: float) -> list[int]:
    request = GenerateRequest(
        "r", PROMPT, 40, SamplingParams(temperature, seed=seed), ignore_eos=True
    )
    steps = [item for item in engine.generate(replace(request, speculation="always"))]
    return [token.token_id for step in steps if isinstance(step, Step) for token in step.tokens]


@pytest.mark.timeout(600)
def test_compiled_passes_score_trees_as_eager_ones_do(checkpoint: Path, cache: Path) -> None:
    """And prompts, which are not compiled; over a cache that others have written to."""
    scorers = []
    for compile in ("cached", "never"):
        engine = Engine.load(config(checkpoint, cache, compile=compile))
        scorers.append(engine._target)
    compiled, eager = scorers
    assert compiled.runner.form == "compiled"
    assert eager.runner.form == "eager"
    context = list(PROMPT)
    for scorer in scorers:
        scorer.reset(context)
    for width in WIDTHS:
        tree = tree_of(width)
        got, expected = (scorer.score(context, tree) for scorer in scorers)
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-4), f"{width} rows"
        path = tree.path(width - 1)
        for scorer in scorers:
            scorer.commit(tree, path)
        context += [*(tree.tokens[node] for node in path), PROMPT[-1]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_compiled_or_not(
    checkpoint: Path, cache: Path, temperature: float
) -> None:
    stages = (NgramStageConfig(budget=20, children=3),)
    loaded = [
        Engine.load(config(checkpoint, cache, compile=compile, stages=stages))
        for compile in ("cached", "never")
    ]
    assert [engine.info.passes["target"] for engine in loaded] == ["compiled", "eager"]
    for seed in range(10):
        compiled, eager = (text(engine, seed, temperature) for engine in loaded)
        assert compiled == eager


def test_other_weights_of_the_same_shapes_share_the_package(cache: Path, tmp_path: Path) -> None:
    """It holds none: each network hands it its own."""
    other = save_checkpoint(tmp_path, seed=1)
    compiled = Engine.load(config(other, cache, compile="cached"))
    eager = Engine.load(config(other, cache, compile="never"))
    assert compiled.info.passes == {"target": "compiled"}
    assert text(compiled, 0, 1.0) == text(eager, 0, 1.0)


def test_another_shape_is_another_package(cache: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path, num_hidden_layers=1)
    engine = Engine.load(config(other, cache, compile="cached"))
    assert engine.info.passes == {"target": "eager"}


def test_passes_are_taken_over_between_requests(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    engine = Engine.load(config(checkpoint, tmp_path, compile="cached"))
    before = text(engine, 0, 1.0)
    assert not engine.adopt_passes()
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    assert engine.adopt_passes()
    assert engine.info.passes == {"target": "compiled"}
    assert text(engine, 0, 1.0) == before
    assert not engine.adopt_passes()


def test_a_spoilt_package_is_refused_and_decoding_goes_on(
    checkpoint: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (package,) = copied.rglob("*.pt2")
    package.write_bytes(b"not a package")
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "eager"}
    assert "what was compiled is damaged" in caplog.text
    assert not package.exists(), "the next start would not make it anew"
    assert len(text(engine, 0, 0.0)) == 40


def test_machine_code_of_somebody_else_is_not_run(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a cache folder that others write to can run what they please."""
    if os.getuid() == 0:  # whom everybody trusts
        for path in copied.rglob("*.*"):
            os.chown(path, 54321, -1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "eager"}


def test_a_package_of_another_network_is_refused(
    checkpoint: Path,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Were a name ever to lie, the proof would tell."""
    original = LlamaRMSNorm.forward
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: 1.5 * original(self, x))
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "eager"}
    assert "differs from the eager one" in caplog.text


def test_a_package_that_loses_its_rows_is_refused(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its outputs may be right: what it must also do is write to the cache."""
    original = Package.__call__

    def forgetful(self: Package, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return original(self, *inputs[:4], *(rows.clone() for rows in inputs[4:]))

    monkeypatch.setattr(Package, "__call__", forgetful)
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    engine = Engine.load(config(checkpoint, cache, compile="cached"))
    assert engine.info.passes == {"target": "eager"}
    assert "differs from the eager one" in caplog.text


def test_other_stages_share_the_compiler_and_do_not_try_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    started = []
    original = subprocess.Popen

    def counted(*args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        started.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", counted)
    engine = Engine.load(config(checkpoint, tmp_path, compile="wait"))
    engine.with_stages((NgramStageConfig(),)).with_stages(())
    assert len(started) == 1


def test_without_a_compiler_passes_stay_eager_and_say_so(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    engine = Engine.load(config(checkpoint, tmp_path, compile="wait"))
    assert engine.info.passes == {"target": "eager"}
    assert not engine.info.is_compiling
    assert "compiling them failed" in caplog.text
    assert "/nowhere/g++" in (tmp_path / "passes/compiler.log").read_text()
    assert len(text(engine, 0, 0.0)) == 40


def test_the_compiling_process_ends_with_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    engine = Engine.load(config(checkpoint, tmp_path, compile="background"))
    assert engine.info.is_compiling
    process = engine._compiler._process
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == -signal.SIGKILL


def is_waiting(pid: int) -> bool:
    """Whether a process waits for a lock: "1: -> FLOCK ADVISORY WRITE pid ..." is one that does."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any({"->", str(pid)} <= {*line.split()} for line in lines)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="needs /proc")
def test_one_process_at_a_time_compiles_for_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    """Red when engines that start together all compile the same, or wait with torch in memory."""
    with (tmp_path / "compiler.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiler = BackgroundCompiler(tmp_path)
        assert compiler.start(config(checkpoint, tmp_path), ["a network"])
        process = compiler._process
        assert process is not None
        while not is_waiting(process.pid):
            assert compiler.is_running, "it did not wait"
            time.sleep(0.05)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.slow
def test_an_engine_process_takes_over_what_is_compiled_while_it_serves(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    """Compiled over there, told over here, and the text goes on as it was."""
    from engine import EngineProcess  # which asks for zmq

    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    (package,) = tmp_path.rglob("*.pt2")
    package.unlink()
    request = GenerateRequest("r", PROMPT, 20, SamplingParams(seed=1), ignore_eos=True)

    async def scenario() -> None:
        process = EngineProcess(config(checkpoint, tmp_path, compile="background"))
        await process.start()
        try:
            info = await process.wait_ready()
            assert (info.passes, info.is_compiling) == ({"target": "eager"}, True)
            texts = [[item async for item in process.generate(request)][:-1]]
            while process.info is None or process.info.is_compiling:
                await asyncio.sleep(0.2)
            assert process.info.passes == {"target": "compiled"}
            texts.append([item async for item in process.generate(request)][:-1])
            first, second = ([step.tokens for step in text] for text in texts)  # type: ignore[union-attr]
            assert sum(first, ()) == sum(second, ())
        finally:
            await process.close()

    asyncio.run(asyncio.wait_for(scenario(), 200))


def test_kernels_are_for_engines_on_a_cpu(checkpoint: Path, cache: Path) -> None:
    """Red when a GPU's engine takes over what only a CPU can run."""
    engine = Engine.load(config(checkpoint, cache, compile="never"))
    engine._target.device = torch.device("cuda")
    assert not engine.adopt_passes()
    assert not any(isinstance(each, KernelLinear) for each in engine._target.network.modules())


def test_weights_that_a_compiler_writes_into_its_code_are_in_a_packages_name() -> None:
    model = make_model("qwen3")
    names = []
    for scale in (1.0, 2.0):
        with torch.no_grad():
            model.network.model.layers[0].self_attn.q_norm.weight.fill_(scale)
        names.append(fingerprint(model._function(), model._cache.rows))
    assert len(set(names)) == 2
