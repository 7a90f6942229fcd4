"""Passes over buffers that stay in place: the figures of eager ones, whatever tree comes next.

There is no CUDA graph on a CPU: what is recorded here is run again, over the same buffers. Where
there is a GPU the same holds of real graphs over its kernel (`-m gpu`).
"""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from engine import acceleration, attention
from engine.acceleration import on_gpu, run_by
from engine.api import Engine
from engine.config import NgramStageConfig
from engine.drafting.head import HeadModel
from engine.loading import read_limits
from engine.model import Model
from engine.passes import CapturedRunner, CudaRecorder
from engine.passes.function import Run
from engine.passes.fused import FusedFunction
from engine.request import GenerateRequest, Output, SamplingParams
from engine.scorer import TreeScorer
from engine.tree import TokenTree
from engine.weights import lay_out
from tests.checkpoints import VOCAB_SIZE, make_network
from tests.engine.setups import STAGE_LISTS, fitted_head, in_float32, target_model
from tests.engine.setups import compiling_config as config
from tests.engine.test_lossless import play

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS = ["llama", "gpt2", "mistral", "gemma2"]


def again(run: Run) -> Run:
    """A recorder for a CPU: a replay is another run."""
    run()
    return run


def nothing(run: Run) -> Run:
    """A recorder whose replays leave in the buffers what the first run did."""
    run()
    return lambda: None


def capture(scorer: TreeScorer, seconds: float = 60.0) -> TreeScorer:
    """Capture a scorer's passes as an engine on its device does."""
    is_gpu = scorer.device.type == "cuda"
    lay_out(scorer.network, has_kernels=False)
    if is_gpu:
        attention.use(scorer.network, attention.GPU_KERNEL)
    assert run_by(scorer, CapturedRunner).capture(seconds, CudaRecorder() if is_gpu else again)
    assert scorer.runner.form == "captured"
    return scorer


def random_tree(rng: random.Random, root: int, num_nodes: int) -> TokenTree:
    tree = TokenTree(root)
    while len(tree) < num_nodes:
        tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE))
    return tree


def assert_alike(make: Callable[[], TreeScorer], prepare: Callable[[list[int]], None]) -> None:
    """One captured and one eager scorer agree over texts, trees of all widths, and commits."""
    rng = random.Random(1)
    captured, eager = capture(make()), make()
    for _ in range(4):
        context = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(2, 60))]
        for scorer in (captured, eager):
            scorer.reset(context)
        for _ in range(6):
            prepare(context)
            tree = random_tree(rng, context[-1], rng.randrange(1, 70))
            cut = rng.randrange(1, len(tree) + 1)
            for nodes in (range(cut), range(cut, len(tree))):
                if nodes:
                    got, wanted = (each.score(context, tree, nodes) for each in (captured, eager))
                    assert got.shape == wanted.shape
                    assert torch.allclose(got, wanted, atol=2e-4), f"{len(nodes)} rows"
            path = tree.path(rng.randrange(len(tree)))
            for scorer in (captured, eager):
                scorer.commit(tree, path)
            context += [*(tree.tokens[node] for node in path), rng.randrange(VOCAB_SIZE)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_captured_passes_follow_every_change_of_their_inputs(kind: str, device: str) -> None:
    """Red when a replay reads a token, position, slot, length or mask of another pass."""

    def make() -> Model:
        network = make_network(kind).to(device)
        return Model(network, read_limits(network.config), 512, chunk=100)

    assert_alike(make, lambda context: None)


@pytest.mark.parametrize("device", DEVICES)
def test_a_captured_head_reads_the_features_of_this_pass(device: str) -> None:
    target = Model(
        copy.deepcopy(target_model().network).to(device), target_model().limits, 512, chunk=100
    )
    target.keep_features((0, 1, 2))

    def read(context: list[int]) -> None:
        target.reset(context)
        target.score(context, TokenTree(context[-1]))

    assert_alike(lambda: HeadModel(copy.deepcopy(fitted_head()).to(device), target), read)


@pytest.mark.parametrize("stages", ["draft over ngram", "head over draft over ngram"])
def test_speculation_over_captured_passes_never_changes_the_text(
    stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Capturing(CapturedRunner):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            self.capture(60.0, again)

    monkeypatch.setattr(TreeScorer, "runner_kind", Capturing)
    monkeypatch.setattr(target_model(), "_runners", {})
    assert stages in STAGE_LISTS
    assert play(stages, num_cases=10)[0] == 0
    assert target_model().runner.form == "captured"


def test_widths_that_are_not_captured_yet_are_padded_to_others_or_run_eagerly() -> None:
    """Red when a request waits for a capture, or a tree is cut to what has been captured."""
    network = make_network()
    model = Model(network, read_limits(network.config), 512, chunk=100)
    assert run_by(model, CapturedRunner).capture(0.0, again)
    assert model.runner.is_uncaptured
    assert [model.runner.num_padding(width) for width in (1, 2, 9)] == [0, 0, 0]
    assert run_by(model, CapturedRunner).capture(0.0, again)
    assert [model.runner.num_padding(width) for width in (1, 2, 9, 16, 17)] == [0, 14, 7, 0, 0]
    while run_by(model, CapturedRunner).capture(0.0, again):
        pass
    assert not model.runner.is_uncaptured
    assert [model.runner.num_padding(width) for width in (1, 2, 9, 33, 64, 65)] == [
        *(0, 0, 7, 31, 0, 0)
    ]


def test_a_replay_that_does_nothing_new_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Were a graph ever to ignore its inputs, its proof would tell."""
    network = make_network()
    model = Model(network, read_limits(network.config), 512, chunk=100)
    assert not run_by(model, CapturedRunner).capture(60.0, nothing)
    assert model.runner.form == "eager"
    assert "of which rounding explains" in caplog.text
    assert not model.runner.is_uncaptured, "it would be tried again and again"


def test_a_function_that_cannot_be_recorded_is_run_eagerly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(run: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    network = make_network()
    model = Model(network, read_limits(network.config), 512, chunk=100)
    assert not run_by(model, CapturedRunner).capture(60.0, fail)
    assert model.runner.form == "eager"
    assert "passes stay eager: they could not be captured" in caplog.text
    assert "operation not permitted when stream is capturing" in caplog.text
    model.reset([1, 2, 3])
    assert model.score([1, 2, 3], TokenTree(3)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_captured_can_be_compiled_first(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a pass breaks the compiler's graph, or becomes one for each text."""
    monkeypatch.setattr("engine.passes.fused._COMPILER", "aot_eager")
    torch._dynamo.reset()
    network = make_network(kind)
    model = Model(network, read_limits(network.config), 512, chunk=100)
    assert run_by(model, CapturedRunner).capture(0.0, again, is_fused=True)
    context = [3, 1, 4, 1, 5]
    model.reset(context)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for token in range(3):
            model.score(context, TokenTree(context[-1]))
            model.commit(TokenTree(context[-1]), [])
            context.append(token)


def test_all_widths_of_several_networks_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when torch's compiler gives up on the second: it counts both as one function."""
    monkeypatch.setattr("engine.passes.fused._COMPILER", "eager")
    torch._dynamo.reset()
    for seed in (1, 2):
        network = make_network(seed=seed, hidden_size=16 * seed)
        model = Model(network, read_limits(network.config), 512, chunk=100)
        assert run_by(model, CapturedRunner).capture(60.0, again, is_fused=True)
        assert not model.runner.is_uncaptured and model.runner.form == "captured"


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_network_is_compiled_as_few_layers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when every layer is code of its own to the compiler, which then takes minutes.

    Those of gemma2 come in two kinds, and the first layer of each window writes the mask out. A
    network that a head reads tells of its hidden states on the way.
    """
    compiler = CompileCounterWithBackend("eager")
    monkeypatch.setattr("engine.passes.fused._COMPILER", compiler)
    torch._dynamo.reset()
    depth = {"n_layer" if kind == "gpt2" else "num_hidden_layers": 8}
    model = Model(network := make_network(kind, **depth), read_limits(network.config), 512)
    model.keep_features((1, 4, 8))
    example = model._example(3)
    expected = model.function(*example.inputs, *example.rows)
    outputs = FusedFunction(model.function)(*example.inputs, *example.rows)
    for output, wanted in zip(outputs, expected, strict=True):
        assert torch.equal(output, wanted)
    assert compiler.frame_count <= (4 if kind == "gemma2" else 2)
    model.score([1, 2, 3], TokenTree(3))
    assert compiler.frame_count <= 4, "a prompt was compiled"


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_all_widths_but_one_row_are_one_piece_of_code(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a compiler is asked anew for every width that is captured."""
    compiler = CompileCounterWithBackend("eager")
    monkeypatch.setattr("engine.passes.fused._COMPILER", compiler)
    torch._dynamo.reset()
    model = Model(network := make_network(kind), read_limits(network.config), 512)
    frames = []
    for width in (1, 16, 4, 64, 2):
        example = model._example(width)
        expected = model.function(*example.inputs, *example.rows)
        outputs = FusedFunction(model.function)(*example.inputs, *example.rows)
        assert torch.equal(outputs[0], expected[0])
        frames.append(compiler.frame_count)
    assert frames[2:] == [frames[2]] * 3


def test_what_cannot_be_fused_is_captured_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a compiler's failure costs the graphs too."""

    def fails(*_: object) -> None:
        raise RuntimeError("no such compiler")

    monkeypatch.setattr("engine.passes.fused._COMPILER", fails)
    torch._dynamo.reset()
    model = Model(network := make_network(), read_limits(network.config), 512)
    assert run_by(model, CapturedRunner).capture(60.0, again, is_fused=True)
    assert model.runner.form == "captured" and not model.runner.is_uncaptured
    assert "passes are not fused" in caplog.text and "no such compiler" in caplog.text


def text(engine: Engine, seed: int) -> list[int]:
    request = GenerateRequest(
        *("r", (3, 1, 4, 1, 5), 30, SamplingParams(1.0, seed=seed)),
        ignore_eos=True,
        speculation="always",
    )
    steps = [item for item in engine.generate(request) if isinstance(item, Output)]
    return [token.token_id for step in steps for token in step.tokens]


@in_float32
def test_an_engine_captures_a_part_and_the_rest_between_requests(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: ready after the first widths, and the text is the same all the way."""
    stages = (NgramStageConfig(budget=20, children=3),)
    eager = Engine.load(config(checkpoint, tmp_path, compile="never", stages=stages))
    for seconds in ("_START_SECONDS", "_PAUSE_SECONDS"):
        monkeypatch.setattr(on_gpu, seconds, 0.0)
    monkeypatch.setattr(attention, "has_gpu_kernel", lambda: False)
    monkeypatch.setattr("engine.passes.fused._COMPILER", "eager")
    monkeypatch.setattr(
        *("engine.api.accelerate",),
        lambda config, scorers, _: acceleration.OnGpu(config, scorers, again),
    )
    engine = Engine.load(config(checkpoint, tmp_path, compile="background", stages=stages))
    num_rounds = 0
    while (info := engine.refresh()).is_compiling:
        assert info.passes == {"target": "captured"}
        assert text(engine, num_rounds) == text(eager, num_rounds)
        num_rounds += 1
    assert num_rounds == 6
    assert not engine.info.is_compiling
    assert text(engine, 7) == text(eager, 7)
    waited = Engine.load(config(checkpoint, tmp_path, compile="wait", stages=stages))
    assert not waited.info.is_compiling


@pytest.mark.gpu
def test_memory_does_not_grow_over_two_thousand_steps_of_changing_widths() -> None:
    network = make_network().to("cuda")
    model = capture(Model(network, read_limits(network.config), 512, chunk=100))
    rng = random.Random(2)
    used: list[int] = []
    for step in range(2000):
        if step % 40 == 0:
            context = [rng.randrange(VOCAB_SIZE) for _ in range(10)]
            model.reset(context)
        tree = random_tree(rng, context[-1], rng.randrange(1, 64))
        logits: Tensor = model.score(context, tree)
        assert logits.isfinite().all()
        path = tree.path(rng.randrange(len(tree)))[:8]
        model.commit(tree, path)
        context += [*(tree.tokens[node] for node in path), rng.randrange(VOCAB_SIZE)]
        if step % 100 == 99:
            used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1]


def test_experts_in_float32_are_captured() -> None:
    """Red when their product of all at once is judged in a precision that it does not know."""
    network = make_network("mixtral", num_local_experts=4, num_experts_per_tok=2)
    capture(Model(network, read_limits(network.config), 512, chunk=100))
