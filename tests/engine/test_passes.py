"""Compiled and packed passes: the eager ones' figures, taken over when they are there."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.acceleration import BackgroundCompiler, on_cpu
from engine.api import Engine
from engine.config import EngineConfig, NgramStageConfig
from engine.kernels import library, linear
from engine.masks import DenseMasks
from engine.passes import compiled as compiled_file
from engine.passes import proof
from engine.passes.package import Package, fingerprint
from engine.request import GenerateRequest, Output, SamplingParams
from engine.tree import TokenTree
from engine.weights import PackedLinear, lay_out
from engine.weights.kernel import KernelLinear
from tests.alone import Alone
from tests.checkpoints import VOCAB_SIZE, make_model, make_network, save_checkpoint
from tests.engine.setups import ROUNDING, in_float32
from tests.engine.setups import compiling_config as config
from tests.engine.test_scratch import abandoned

ROOT = Path(__file__).parents[2]
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
    lay_out(network, has_kernels=False)
    lay_out(network, with_kernels)
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
    shutil.copytree(cache / "passes", tmp_path / "copy" / "passes")
    return tmp_path / "copy"


def package_in(folder: Path) -> Path:
    """The library of the only package in a cache folder."""
    (path,) = set(folder.rglob("*.so")) - set(folder.rglob("kernels-*"))
    return path


def text(engine: Engine, seed: int, temperature: float) -> list[int]:
    request = GenerateRequest(
        "r", PROMPT, 40, SamplingParams(temperature, seed=seed), ignore_eos=True
    )
    steps = [item for item in engine.generate(replace(request, speculation="always"))]
    return [token.token_id for step in steps if isinstance(step, Output) for token in step.tokens]


@pytest.mark.timeout(600)
def test_compiled_passes_score_trees_as_eager_ones_do(checkpoint: Path, cache: Path) -> None:
    """And prompts, which are not compiled; over a cache that others have written to."""
    scorers = []
    for compile in ("cached", "never"):
        engine = Engine.load(config(checkpoint, cache, compile=compile))
        scorers.append(engine.scorers["target"])
    compiled, eager = scorers
    assert compiled.runner.form == "compiled"
    assert eager.runner.form == "eager"
    context = list(PROMPT)
    for scorer in scorers:
        Alone(scorer).reset(context)
    for width in WIDTHS:
        tree = tree_of(width)
        got, expected = (Alone(scorer).score(context, tree) for scorer in scorers)
        assert got.shape == expected.shape
        error = (got - expected).norm() / expected.norm()
        assert error < ROUNDING[eager.dtype], f"{width} rows"
        path = tree.path(width - 1)
        for scorer in scorers:
            Alone(scorer).commit(tree, path)
        context += [*(tree.tokens[node] for node in path), PROMPT[-1]]


def test_compiled_passes_score_nodes_alone(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when rows of a prompt, alone or with a tree, pay for the output matrix."""
    scorer = Engine.load(config(checkpoint, cache, compile="cached")).scorers["target"]
    widths: list[tuple[int, int]] = []
    call = Package.__call__

    def counted(self: Package, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = call(self, *inputs)
        widths.append((inputs[0].shape[1], len(outputs[0])))
        return outputs

    monkeypatch.setattr(Package, "__call__", counted)
    context = [*PROMPT[:5]] * 30
    assert len(Alone(scorer).score(context[:20], tree_of(5))) == 5
    assert widths == [(19 + 5, 5)]
    widths.clear()
    Alone(scorer).reset([])
    assert len(Alone(scorer).score(context, tree_of(5))) == 5
    if scorer.precision.rounds_inputs:
        assert widths == [(64, 0), (64, 0), (149 - 128 + 5, 5)]
    else:  # where a wide pass, which is not compiled, is faster
        assert widths == [(5, 5)]


@in_float32
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


def test_a_compiled_pass_calls_kernels_by_their_names(cache: Path) -> None:
    """Red when a call goes through torch's lists and dispatch, a microsecond each time."""
    package = package_in(cache)
    assert not package.with_suffix(".json").exists()
    assert b"aoti_torch_cpu_attention" in package.read_bytes()


@in_float32
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


@in_float32
def test_passes_are_taken_over_between_requests(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    engine = Engine.load(config(checkpoint, tmp_path, compile="cached"))
    before = text(engine, 0, 1.0)
    assert not engine.change_over()
    shutil.copytree(cache / "passes", tmp_path / "passes")
    assert engine.change_over()
    assert engine.info.passes == {"target": "compiled"}
    assert text(engine, 0, 1.0) == before
    assert not engine.change_over()


def test_half_a_package_is_removed_and_decoding_goes_on(
    checkpoint: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = package_in(copied)
    os.truncate(package, package.stat().st_size // 2)
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "eager"}
    assert "is not used, since it is not whole" in caplog.text
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


def in_another_process(checkpoint: Path, folder: Path, compile: str, **changes: str) -> str:
    """What an engine there says of its target's passes.

    In it nothing may be started but our own programs, whose command line has `engine.compiling`.
    """
    script = f"""
import sys
def hook(event, arguments):
    is_start = event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
    assert not is_start or "engine.compiling" in arguments[1], (event, arguments)
sys.addaudithook(hook)
from pathlib import Path
from engine.acceleration import BackgroundCompiler, on_cpu
from engine.api import Engine
from tests.engine.setups import compiling_config
checkpoint, folder = map(Path, {(str(checkpoint), str(folder))!r})
given = {{"compile": {compile!r}, "dtype": {EngineConfig("").dtype!r}}}
engine = Engine.load(compiling_config(checkpoint, folder, **given))
print(engine.info.passes["target"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **changes},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PLANTED = """
#include <fstream>
static const bool ran = bool(std::ofstream(RAN) << "ran");
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Temporary files with a library, wherever torch by default looks for those of its probes.

    Whoever loads it leaves a file `ran` beside that folder.
    """
    (tmp_path / "planted.cpp").write_text(PLANTED)
    plant, ran, temporary = (tmp_path / name for name in ("planted.so", "ran", "temporary"))
    temporary.mkdir()
    build = ["g++", "-shared", "-fPIC", f'-DRAN="{ran}"', "-o", str(plant)]
    subprocess.run([*build, str(tmp_path / "planted.cpp")], check=True)
    script = f"""
import shutil
from torch._inductor import cpp_builder, cpu_vec_isa
cpp_builder.CppBuilder.build = lambda it: shutil.copy({str(plant)!r}, it.get_target_file_path())
cpu_vec_isa.valid_vec_isa_list()
"""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    ran.unlink()  # left by the script's own probes
    return temporary


def test_an_engine_starts_no_compiler_and_loads_nothing_from_the_temporary_files(
    checkpoint: Path, cache: Path, planted: Path
) -> None:
    """Red when torch asks the compiler what it can do, by libraries that anybody can plant."""
    before = {*planted.rglob("*")}
    form = in_another_process(checkpoint, cache, "cached", PATH="", TMPDIR=str(planted))
    assert form == "compiled"
    assert not planted.with_name("ran").exists()
    assert {*planted.rglob("*")} == before


def test_compiling_leaves_nothing_but_what_it_made(cache: Path) -> None:
    """Red when compilers work where others can put libraries for them to load."""
    assert not [*(cache / "temporary").iterdir()]
    assert not [*cache.rglob("stagetree-scratch.*")]


def halve_the_kernels(folder: Path) -> tuple[Path, int]:
    """Where they are, and how large they were."""
    (path,) = folder.rglob("kernels-*.so")
    size = path.stat().st_size
    os.truncate(path, size // 2)
    return path, size


def test_half_of_the_kernels_kill_no_engine(checkpoint: Path, copied: Path) -> None:
    """Red when a library is mapped into memory of which a part is not there: SIGBUS."""
    path, _ = halve_the_kernels(copied)
    assert in_another_process(checkpoint, copied, "cached") == "eager"
    assert not path.exists()


def test_kernels_that_cannot_be_loaded_here_are_kept(
    copied: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a disk from which nothing may be run has them compiled at every start."""

    def refuse(path: Path) -> None:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(library, "_refusal", None)
    monkeypatch.setattr(library, "_was_tried", False)
    monkeypatch.setattr(library, "_is_loaded", False)
    monkeypatch.setattr(library, "_open", refuse)
    assert not library.load(copied / "passes")
    assert "failed to map segment" in caplog.text
    assert [*copied.rglob("kernels-*.so")]


@pytest.mark.slow
def test_half_of_the_kernels_are_made_anew_by_the_same_start(
    checkpoint: Path, copied: Path
) -> None:
    """Red when an engine finds out that they are spoilt only after it asked what is missing."""
    path, size = halve_the_kernels(copied)
    assert in_another_process(checkpoint, copied, "wait") == "compiled"
    assert path.stat().st_size == size


@pytest.mark.parametrize("name", ["compiler.log", "compiler.lock"])
def test_planted_links_in_a_cache_are_not_followed(
    checkpoint: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a file that they lead to is emptied."""
    (victim := tmp_path / "victim").write_text("precious")
    (tmp_path / "passes").mkdir(mode=0o700)
    (tmp_path / "passes" / name).symlink_to(victim)
    engine = Engine.load(config(checkpoint, tmp_path, compile="wait"))
    assert engine.info.passes == {"target": "eager"}
    assert "passes stay eager" in caplog.text
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("compile", ["cached", "wait"])
def test_from_a_cache_that_others_write_to_nothing_is_run(
    checkpoint: Path, copied: Path, compile: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when code is loaded from there, or put there, or nobody learns why it is not."""
    (copied / "passes").chmod(0o777)
    before = {path: path.stat().st_mtime_ns for path in (copied / "passes").iterdir()}
    engine = Engine.load(config(checkpoint, copied, compile=compile))
    assert engine.info.passes == {"target": "eager"} and not engine.info.is_compiling
    assert "passes stay eager: other users could put code into" in caplog.text
    assert "other users could put code into" in engine.info.refusals["target"]
    assert {path: path.stat().st_mtime_ns for path in (copied / "passes").iterdir()} == before
    assert len(text(engine, 0, 0.0)) == 40


def test_what_a_killed_compiling_left_is_swept_by_the_next_start(
    checkpoint: Path, copied: Path
) -> None:
    left = abandoned(copied / "passes")
    Engine.load(config(checkpoint, copied, compile="cached"))
    assert not left.exists()


def test_where_nothing_can_be_written_passes_stay_eager_and_say_so(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a read-only container, or a home that is none, ends in a traceback."""
    (tmp_path / "home").write_text("no folder")
    engine = Engine.load(config(checkpoint, tmp_path / "home" / "cache", compile="wait"))
    assert engine.info.passes == {"target": "eager"} and not engine.info.is_compiling
    assert "passes stay eager" in caplog.text and str(tmp_path / "home") in caplog.text


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
    assert "of which rounding explains" in caplog.text


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let packages compute the right outputs, and write nothing to the cache."""
    original = Package.__call__

    def call(self: Package, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return original(self, *inputs[:4], *(rows.clone() for rows in inputs[4:]))

    monkeypatch.setattr(Package, "__call__", call)


@in_float32
def test_a_package_that_is_wrong_for_some_weights_stays_for_others(
    checkpoint: Path,
    copied: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when one fine-tune takes from its siblings what is theirs, or nobody is told why."""
    sibling = save_checkpoint(tmp_path / "sibling", seed=1)
    with monkeypatch.context() as patch:
        forgetful(patch)
        Engine.load(config(sibling, copied, compile="cached"))
    for _ in range(2):
        caplog.clear()
        engine = Engine.load(config(sibling, copied, compile="background"))
        assert engine.info.passes == {"target": "eager"}
        assert not engine.info.is_compiling
        assert "what was compiled is wrong" in engine.info.refusals["target"]
        assert "of which rounding explains" in caplog.text
    engine = Engine.load(config(checkpoint, copied, compile="background"))
    assert engine.info.passes == {"target": "compiled"}
    assert package_in(copied).exists()


def test_what_may_be_rounding_is_not_remembered(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when passes of which the proof cannot tell stay eager at every later start."""
    with monkeypatch.context() as patch:
        forgetful(patch)
        patch.setattr(proof, "_FACTOR", 1e9)
        engine = Engine.load(config(checkpoint, copied, compile="cached"))
        assert engine.info.passes == {"target": "eager"}
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "compiled"}


def test_another_proof_tries_once_more(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when what a mistaken proof has refused stays eager for ever."""
    with monkeypatch.context() as patch:
        forgetful(patch)
        Engine.load(config(checkpoint, copied, compile="cached"))
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "eager"}
    monkeypatch.setattr(compiled_file, "proof", linear)
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert engine.info.passes == {"target": "compiled"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("failed to map segment")]
)
def test_what_cannot_be_loaded_here_and_now_stays(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """No room, or no right to run it. Red when a minute's work is thrown away for that."""

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch._C._aoti, "AOTIModelContainerRunnerCpu", fail)
        engine = Engine.load(config(checkpoint, copied, compile="background"))
        assert not engine.info.is_compiling
    assert engine.info.passes == {"target": "eager"}
    assert str(error) in engine.info.refusals["target"]
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert (engine.info.passes, engine.info.refusals) == ({"target": "compiled"}, {})


def test_what_another_server_took_away_is_missing_and_not_wrong(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a file that is gone is held against the network."""

    def vanish(path: str, *args: object) -> None:
        Path(path).unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(torch._C._aoti, "AOTIModelContainerRunnerCpu", vanish)
    engine = Engine.load(config(checkpoint, copied, compile="cached"))
    assert (engine.info.passes, engine.info.refusals) == ({"target": "eager"}, {})
    assert engine.scorers["target"].runner.is_missing(copied / "passes")


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not tried to load the kernels, as far as it can be had in this one."""
    for name, value in {"_was_tried": False, "_is_loaded": False, "_refusal": None}.items():
        monkeypatch.setattr(library, name, value)
    monkeypatch.setattr(library, "_open", lambda path: None)
    for kernel in library._KERNELS:
        monkeypatch.setattr(kernel, "register", lambda: None)


@pytest.mark.usefixtures("untried")
def test_kernels_that_are_wrong_are_removed_and_not_made_again(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when each start compiles what each start refuses, or nobody is told why."""

    def fail() -> None:
        raise ValueError("a product of 7 rows is wrong")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(linear, "check", fail)
            patch.setattr(library, "_was_tried", False)
            patch.setattr(library, "_refusal", None)
            engine = Engine.load(config(checkpoint, copied, compile="background"))
        assert not engine.info.is_compiling
        assert "a product of 7 rows is wrong" in engine.info.refusals["target"]
        assert not [*copied.rglob("kernels-*.so")]


@pytest.mark.usefixtures("untried")
def test_kernels_that_cannot_be_loaded_here_and_now_stay(
    checkpoint: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a file system without the right to run anything."""

    def fail(path: Path) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(library, "_open", fail)
    engine = Engine.load(config(checkpoint, copied, compile="background"))
    assert not engine.info.is_compiling
    assert "failed to map segment" in engine.info.refusals["target"]
    assert [*copied.rglob("kernels-*.so")]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some in which the weights are not to be loaded twice, but half of them might."""
    network = make_network()
    num_bytes = 4 * sum(weight.numel() for weight in network.parameters())
    monkeypatch.setattr(on_cpu, "total_bytes", lambda: 3 * num_bytes // 2)


def test_large_weights_are_loaded_by_nobody_else(
    checkpoint: Path, copied: Path, little_memory: None
) -> None:
    """Red when weights that are packed by now are not counted, and a machine runs out of memory."""
    package_in(copied).unlink()
    engine = Engine.load(config(checkpoint, copied, compile="background", dtype="float32"))
    assert engine.info.passes == {"target": "eager"}
    assert not engine.info.is_compiling
    assert "only the kernels are compiled" in engine.info.refusals["target"]


def test_large_weights_wait_for_the_kernels_alone(
    checkpoint: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    little_memory: None,
) -> None:
    """Red when where passes cannot be compiled nobody builds the kernels either.

    Its compiler has done this before. The last argument is where to.
    """
    [made] = cache.rglob("kernels-*.so")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\nfor each; do :; done\nexec cp {made} "$each"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr("engine.kernels.is_loaded", lambda: False)
    engine = Engine.load(config(checkpoint, tmp_path, compile="wait", dtype="float32"))
    assert (tmp_path / "passes/compiler.log").read_text() == ""
    assert [each.name[:8] for each in tmp_path.rglob("*.so")] == ["kernels-"]
    assert "only the kernels are compiled" in engine.info.refusals["target"]


def test_where_nothing_can_be_compiled_passes_stay_eager_and_say_so_and_nobody_tries_again(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when each list of stages has a compiler of its own. `test_program.py` has a real one that
    fails; here it is a program that fails at once."""
    started = []
    original = subprocess.Popen

    def fails(command: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        started.append(command)
        return original(
            [
                sys.executable,
                "-c",
                "import sys; sys.stdin.buffer.read(1); raise SystemExit('no compiler')",
            ],
            **kwargs,
        )

    monkeypatch.setattr(subprocess, "Popen", fails)
    engine = Engine.load(config(checkpoint, tmp_path, compile="wait"))
    assert engine.info.passes == {"target": "eager"}
    assert not engine.info.is_compiling
    assert "compiling them failed" in caplog.text
    assert "compiling them failed" in engine.info.refusals["target"]
    assert "no compiler" in (tmp_path / "passes/compiler.log").read_text()
    assert len(text(engine, 0, 0.0)) == 40
    engine.with_stages((NgramStageConfig(),)).with_stages(())
    assert len(started) == 1


def test_the_compiling_process_ends_with_the_engine(checkpoint: Path, tmp_path: Path) -> None:
    engine = Engine.load(config(checkpoint, tmp_path, compile="background"))
    assert engine.info.is_compiling
    process = engine._shared.compiler._process
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


@in_float32
@pytest.mark.slow
def test_an_engine_process_takes_over_what_is_compiled_while_it_serves(
    checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    """Compiled over there, told over here, and the text goes on as it was."""
    from engine import EngineProcess  # which asks for zmq

    shutil.copytree(cache / "passes", tmp_path / "passes")
    package = package_in(tmp_path)
    package.unlink()
    request = GenerateRequest("r", PROMPT, 20, SamplingParams(seed=1), ignore_eos=True)

    async def scenario() -> None:
        process = EngineProcess(config(checkpoint, tmp_path, compile="background"))
        await process.start()
        try:
            info = await process.wait_ready()
            assert (info.passes, info.is_compiling) == ({"target": "eager"}, True)
            texts = [[item async for item in process.generate(request)]]
            while process.info is None or process.info.is_compiling:
                await asyncio.sleep(0.2)
            assert process.info.passes == {"target": "compiled"}
            texts.append([item async for item in process.generate(request)])
            outputs = [[item.output for item in text if item.output] for text in texts]
            first, second = ([step.tokens for step in text] for text in outputs)
            assert sum(first, ()) == sum(second, ())
            assert len(sum(first, ())) == request.max_tokens
        finally:
            await process.close()

    asyncio.run(asyncio.wait_for(scenario(), 200))


def test_kernels_are_for_engines_on_a_cpu(checkpoint: Path, cache: Path) -> None:
    """Red when a GPU's engine takes over what only a CPU can run."""
    engine = Engine.load(config(checkpoint, cache, compile="never"))
    engine.scorers["target"].device = torch.device("cuda")
    assert not engine.change_over()
    assert not any(
        isinstance(each, KernelLinear) for each in engine.scorers["target"].network.modules()
    )


def test_weights_that_a_compiler_writes_into_its_code_are_in_a_packages_name() -> None:
    model = make_model("qwen3")
    names = []
    for scale in (1.0, 2.0):
        with torch.no_grad():
            model.network.model.layers[0].self_attn.q_norm.weight.fill_(scale)
        names.append(fingerprint(model.function, model.strips.cache.rows))
    assert len(set(names)) == 2
