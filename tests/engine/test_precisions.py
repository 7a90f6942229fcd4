"""Every precision: what a tree's nodes score is what plain decoding scores, to the bit."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.acceleration.on_cpu import lay_out_for_kernels
from engine.api import Engine
from engine.config import Dtype, EngineConfig, ModelStageConfig, NgramStageConfig
from engine.errors import ConfigError
from engine.kernels import dots
from engine.loading import read_limits
from engine.model import Model
from engine.prefix import num_common
from engine.request import Output
from engine.rows import Tokens
from engine.tree import TokenTree
from engine.weights import BITS, PackedLinear, integers, lay_out, packed, quantise, unpacked
from engine.weights.integers import IntegerLinear
from engine.weights.kernel import BFloat16KernelLinear, IntegerKernelLinear, KernelLinear
from engine.weights.library import LibraryLinear
from tests.checkpoints import VOCAB_SIZE, make_network, save_checkpoint
from tests.engine.setups import compiling_config, random_request, token_ids

SIZES = {"hidden_size": 64, "intermediate_size": 128}
LAYERS = {
    "float32": KernelLinear,
    "bfloat16": BFloat16KernelLinear,
    "int8": IntegerKernelLinear,
    "int4": IntegerKernelLinear,
}


def model_in(precision: str, architecture: str = "llama") -> Model:
    """A random model in a precision, over our kernels.

    Its sizes are whole vectors, as those of real models: torch's own operations treat a rest apart.
    """
    network = make_network(architecture, **SIZES)
    if precision in BITS:
        quantise(network, precision)
    if precision == "bfloat16":
        network.to(torch.bfloat16)
    model = Model(network, read_limits(network.config), 512, chunk=16, num_seats=2)
    lay_out_for_kernels({"target": model})
    kinds = {type(each) for each in model.network.modules() if isinstance(each, PackedLinear)}
    assert kinds == {LAYERS[precision]}
    return model


def logits_of_paths(model: Model, text: list[int], tree: TokenTree) -> list[Tensor]:
    """What each node scores when it ends a text that is read token by token.

    What it shares with the last one has been read so before.
    """
    found, last = [], list[int]()
    model.strips.forget()
    for node in range(len(tree)):
        path = [*text, *(tree.tokens[each] for each in tree.path(node))]
        num_known = num_common(path, last)
        last = path
        for end in range(min(num_known + 1, len(path)), len(path) + 1):
            seated, root = Tokens(path[:end]), TokenTree(path[end - 1])
            scored = model.score([seated], root)
            model.commit([seated], root, [[0]])
        found.append(scored[0])
    return found


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
@pytest.mark.parametrize("precision", LAYERS)
def test_a_node_scores_what_plain_decoding_scores_bit_for_bit(
    cache: Path, precision: str, architecture: str
) -> None:
    """Red when a sum, or a scale, depends on what else is in the pass, or was committed before."""
    model = model_in(precision, architecture)
    rng = random.Random(0)
    text = [rng.randrange(VOCAB_SIZE) for _ in range(124)]
    tree = TokenTree(text[-1])
    while len(tree) < 12:
        tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE))
    plain = logits_of_paths(model, text, tree)
    model.strips.forget()
    assert torch.equal(model.score([Tokens(text)], tree), torch.stack(plain))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("precision", "bits"), BITS.items())
def test_integers_are_the_same_with_and_without_kernels_but_for_the_last_bits(
    cache: Path, kind: str, precision: str, bits: int
) -> None:
    """Red when who has no compiler rounds otherwise, or weights change when laid out anew."""
    network = make_network(kind)
    layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
    for given in layers:
        weight = given.weight.detach()
        layer = IntegerLinear(dots.quantise(weight, bits), given.bias, weight.dtype)
        packed = IntegerKernelLinear(layer)
        assert torch.equal(packed.weight, layer.weight)
        assert (layer.weight - weight).abs().max() <= weight.abs().max() / (0.95 * 2**bits)
        inputs = torch.randn(5, layer.in_features)
        assert torch.allclose(packed(inputs), layer(inputs), atol=1e-4)
    quantise(network, precision)
    lay_out(network, has_kernels=False)
    assert not any(type(each) is nn.Linear for each in network.modules())
    with unpacked(network):
        assert all(each.forward == each.product for each in _packed(network))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matrix_is_rounded_and_widened_some_rows_at_a_time(
    bits: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a plain copy of a matrix is whole, or some of its rows are left out or moved."""
    weight, inputs = torch.randn(100, 40), torch.randn(3, 40)
    for module in (integers, packed):
        monkeypatch.setattr(module, "AT_ONCE", 3 * 40)
    taken: list[int] = []

    def noted(part: Tensor) -> Tensor:
        taken.append(len(part))
        return part

    codes = integers.rounded_matrix(lambda rows: noted(weight[rows]), (100, 40), bits)
    assert taken == [3] * 33 + [1]
    whole = dots.quantise(weight, bits)
    assert torch.equal(codes.plain(), whole.plain())
    plain = IntegerLinear(codes, torch.randn(100), torch.float32)
    expected = nn.functional.linear(inputs, whole.plain(), plain.bias)
    for layer in (plain, IntegerKernelLinear(plain)):
        taken.clear()
        outputs = layer.outputs
        monkeypatch.setattr(layer, "outputs", lambda *ends, of=outputs: noted(of(*ends)))
        assert torch.allclose(layer.product(inputs), expected, atol=1e-5)
        assert taken == [32, 32, 32, 4]


def test_the_output_matrix_has_no_less_than_8_bits() -> None:
    """Red when what ranks all tokens is rounded as what lies below it."""
    network = make_network()
    quantise(network, "int4")
    assert network.lm_head.minima is None
    assert all(each.minima is not None for each in _packed(network.model))


def _packed(network: nn.Module) -> list[PackedLinear]:
    return [each for each in network.modules() if isinstance(each, PackedLinear)]


def test_every_network_says_its_precision(tmp_path: Path) -> None:
    """Red when a stage's own setting is not heard, or the target's is not a stage's by default."""
    target, draft = (save_checkpoint(tmp_path / name) for name in ("target", "draft"))
    for own, expected in ((None, "int8"), ("int4", "int4"), ("bfloat16", "bfloat16")):
        stages = (ModelStageConfig(str(draft), dtype=own), NgramStageConfig())
        engine = Engine.load(EngineConfig(str(target), stages, dtype="int8"))
        assert engine.info.precisions == {"target": "int8", "draft": expected}
        assert (engine.info.dtype, engine.info.precision) == ("int8", "as asked for")
        plain = Engine.load(EngineConfig(str(target), dtype="float32"))
        assert engine.info.num_parameters == plain.info.num_parameters


def test_an_unknown_precision_of_a_stage_is_refused() -> None:
    mapping = {"kind": "model", "model": "draft", "dtype": "int3"}
    with pytest.raises(ConfigError, match="dtype must be"):
        EngineConfig.from_mapping({"model": "target", "stages": [mapping]})


def test_experts_whose_weights_lie_together_are_not_rounded() -> None:
    """Red when a model says int8 of itself whose weights are numbers of 32 bits."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(16, 4)
            self.up = nn.Parameter(torch.randn(4, 16, 32))

    with pytest.raises(ConfigError, match="int4 is for linear layers, and Experts keeps"):
        quantise(Experts(), "int4")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
def test_the_text_is_the_same_with_and_without_speculation(
    cache: Path, tmp_path: Path, precision: Dtype
) -> None:
    """In compiled passes, in which prompts are read, too."""
    shutil.copytree(cache / "passes", tmp_path / "cache" / "passes")  # for its kernels
    target = save_checkpoint(tmp_path / "target", **SIZES)
    draft = save_checkpoint(tmp_path / "draft", seed=1, **SIZES)
    stages = (
        ModelStageConfig(str(draft), budget=20, passes=3),
        NgramStageConfig(budget=8, children=3),
    )
    config = compiling_config(target, tmp_path / "cache", dtype=precision, stages=stages)
    engine = Engine.load(replace(config, compile="wait"))
    assert engine.info.passes == {"target": "compiled", "draft": "compiled"}
    rng = random.Random(0)
    for _ in range(60):
        request = random_request(rng, max_tokens=60)
        texts = []
        for speculation in ("off", "always", "auto"):
            steps = [*engine.generate(replace(request, speculation=speculation))]
            texts.append(token_ids([each for each in steps if isinstance(each, Output)]))
        assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("precision", [*LAYERS, "library", "without kernels"])
def test_of_no_rows_there_are_no_products(cache: Path, precision: str) -> None:
    """Red when a chunk of a prompt, of which no row is scored, cannot be read in some layout."""
    weight, bias = torch.randn(96, 64), torch.randn(96)
    if precision == "library" and not LibraryLinear.suits(weight):
        pytest.skip("this torch has no such layout")
    plain = IntegerLinear(dots.quantise(weight, 4), bias, torch.float32)
    layer: PackedLinear = {
        "float32": lambda: KernelLinear(weight, bias),
        "bfloat16": lambda: BFloat16KernelLinear(weight.bfloat16(), bias),
        "int8": lambda: IntegerKernelLinear(
            IntegerLinear(dots.quantise(weight, 8), bias, torch.float32)
        ),
        "int4": lambda: IntegerKernelLinear(plain),
        "library": lambda: LibraryLinear(weight, bias),
        "without kernels": lambda: plain,
    }[precision]()
    assert layer(torch.empty(1, 0, 64)).shape == (1, 0, 96)
