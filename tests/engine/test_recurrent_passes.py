"""Passes over layers that keep a state, in every form: figures of eager ones, and their texts."""

import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine import attention
from engine.acceleration import run_by
from engine.code_cache import make_private
from engine.decoder import Decoder
from engine.drafting.sources import LookupSource
from engine.geometry import NUM_BYTES
from engine.loading import read_limits
from engine.model import Model
from engine.passes import CompiledRunner, Form, PassInputs
from engine.passes.proof import WrongPassError, prove
from engine.recurrent import KeptByLayer, States, forest
from engine.rows import Tokens
from engine.tree import TokenTree
from engine.weights import lay_out
from tests.checkpoints import HYBRIDS, VOCAB_SIZE, make_model, make_network
from tests.engine.conftest import only_compiler
from tests.engine.setups import in_float32, random_request, recycle, run, token_ids
from tests.engine.test_captured import DEVICES, capture
from tests.engine.test_company import play as play_together
from tests.engine.test_company import requests_of

pytestmark = in_float32
NUM_SEATS = 3
CLOSE = 2e-5
"""As a share of the largest logit."""

Compiled = Callable[[str], Model]
Break = Callable[[pytest.MonkeyPatch], None]


def over_kernels(architecture: str) -> Model:
    """A model whose passes are run by our kernels, as an engine's on a CPU are."""
    model = make_model(architecture, num_seats=NUM_SEATS)
    lay_out(model.network, has_kernels=True)
    attention.use(model.network, attention.CPU_KERNEL)
    return model


@pytest.fixture(scope="session")
def compiled(cache: object, run_folder: Path) -> Compiled:
    """A model whose passes are compiled; each architecture is compiled once, which takes half a
    minute."""
    folder, models = run_folder / "hybrids", dict[str, Model]()
    make_private(folder)

    def of(architecture: str) -> Model:
        if architecture not in models:
            model = models[architecture] = over_kernels(architecture)
            runner = run_by(model, CompiledRunner)
            with only_compiler(folder), warnings.catch_warnings(action="ignore"):
                if runner.is_missing(folder):
                    runner.compile(folder)  # of which torch's compiler warns about torch
            assert runner.take_package(folder), runner.refusal
        return models[architecture]

    return of


def on(device: str, architecture: str) -> Model:
    """A model there."""
    network = make_network(architecture).to(device)
    return Model(network, read_limits(network.config), 512, chunk=16, num_seats=NUM_SEATS)


def forest_of(roots: Sequence[int], rng: random.Random) -> TokenTree:
    """A random tree below each of these tokens, of some sixty nodes in all, text by text."""
    tree = TokenTree(*roots)
    for _ in range(rng.randrange(len(roots), 60)):
        tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE))
    return tree.prune(node for node in range(len(tree)) if node not in tree.roots)[0]


def worst_difference(scorers: Sequence[Model], rng: random.Random) -> float:
    """Trees of one to three texts, scored in turns and accepted: by how much the logits of two
    scorers differ, of the largest."""
    texts = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(2, 90))] for _ in range(3)]
    seated = [[Tokens([*text], seat) for seat, text in enumerate(texts)] for _ in scorers]
    worst = 0.0
    for _ in range(6):
        playing = rng.sample(range(3), rng.randrange(1, 4))
        tree = forest_of([texts[seat][-1] for seat in playing], rng)
        cut = rng.randrange(1, len(tree) + 1)
        for nodes in filter(None, (range(cut), range(cut, len(tree)))):
            got, wanted = (
                scorer.score([own[seat] for seat in playing], tree, nodes)
                for scorer, own in zip(scorers, seated, strict=True)
            )
            worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max()))
        paths = []
        for text, root in enumerate(tree.roots):
            end = rng.choice([node for node in range(len(tree)) if tree.texts[node] == text])
            paths.append([root, *tree.path(end)])
        for scorer, own in zip(scorers, seated, strict=True):
            scorer.commit([own[seat] for seat in playing], tree, paths)
        for seat, path in zip(playing, paths, strict=True):
            new = [*(tree.tokens[node] for node in path[1:]), rng.randrange(VOCAB_SIZE)]
            texts[seat] += new
            for own in seated:
                own[seat].tokens += new
    return worst


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_compiled_passes_score_forests_as_eager_ones_do(
    architecture: str, compiled: Compiled
) -> None:
    """Of one row and of many, of one text and of several, behind rows of an earlier pass and
    beside idle seats. Red when a size is frozen into the code, or a state is another seat's."""
    model = compiled(architecture)
    assert model.runner.form == "compiled"
    for seed in range(3):
        model.strips.forget()
        scorers = [model, over_kernels(architecture)]
        assert worst_difference(scorers, random.Random(seed)) < CLOSE


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_texts_over_compiled_passes_are_those_of_plain_decoding(
    architecture: str, compiled: Compiled
) -> None:
    """Alone and in company, cancelled and resumed. Red when trees are scored otherwise than their
    paths, or a package keeps what it should have written."""
    model, rng = compiled(architecture), random.Random(architecture)
    decoder = Decoder(model, recycle(12, LookupSource("look-up")))
    alone, num_drafted = Decoder(model), 0
    for _ in range(3):
        request = random_request(rng)
        steps, finished = run(decoder, request, "always")
        num_drafted += finished.stats.num_draft_tokens
        assert token_ids(steps) == token_ids(run(alone, request, "off")[0])
    requests = requests_of(rng, 6)
    texts, cut, most = play_together(decoder, requests, rng)
    for request in requests:
        expected, got = token_ids(run(alone, request, "off")[0]), texts[request.request_id]
        assert got == (expected[: len(got)] if request.request_id in cut else expected), request
    assert most > 1 and num_drafted > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_captured_passes_score_forests_as_eager_ones_do(architecture: str, device: str) -> None:
    """In buffers of fixed sizes, padded to the next width. Red when what pads a pass is told of as
    a text's, or a graph reads the sizes that it was recorded with."""
    model = capture(on(device, architecture))
    assert not model.runner.is_uncaptured
    for seed in range(3):
        model.strips.forget()
        scorers = [model, on(device, architecture)]
        assert worst_difference(scorers, random.Random(seed)) < CLOSE


def wrong_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows change is kept a row late."""
    original = forest.Lineage.forest

    def late(self: forest.Lineage) -> forest.Forest:
        found = original(self)
        return found._replace(targets=found.targets + 1)

    monkeypatch.setattr(forest.Lineage, "forest", late)


def wrong_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions take the inputs before those of their ancestors."""
    original = forest.Lineage.paths

    def late(self: forest.Lineage, size: int) -> forest.Paths:
        own, windows = original(self, size)
        return forest.Paths(own, (windows - 1).clamp(min=0))

    monkeypatch.setattr(forest.Lineage, "paths", late)


def wrong_sights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows see those of an earlier pass as if they were none."""
    original = forest.Lineage.forest

    def blind(self: forest.Lineage) -> forest.Forest:
        found = original(self)
        sees = found.sees.clone()
        sees[..., : sees.shape[2] - sees.shape[1]] = False
        return found._replace(sees=sees)

    monkeypatch.setattr(forest.Lineage, "forest", blind)


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong."""


class Broken:
    """A model's passes while something is wrong with them."""

    form: Form = "compiled"
    widest = None

    def __init__(self, model: Model, break_it: Break) -> None:
        self._model, self._break, self.function = model, break_it, model.function

    def padding(self, width: int) -> int:
        """None."""
        return 0

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What is wrong is so here alone."""
        with pytest.MonkeyPatch.context() as patch:
            self._break(patch)
            grouping = self.function.grouping(inputs.rows)
            return self.function(*inputs, *grouping, *extra, *self._model.strips.tensors)


@pytest.mark.parametrize("break_it", [wrong_rows, wrong_windows, wrong_sights])
@pytest.mark.parametrize("architecture", ["qwen3_5_text", "granitemoehybrid"])
def test_fast_passes_that_keep_or_read_other_rows_are_refused(
    architecture: str, break_it: Break
) -> None:
    """Red when the proof of fast passes looks at outputs of one pass alone, or over empty states;
    and when it leaves in them what it tried."""
    model = make_model(architecture, num_seats=NUM_SEATS)
    model.score([Tokens([*range(1, 40)])], TokenTree(39))
    states = model.strips.states
    assert states is not None
    before = [each for seat in states.seats for each in states.copy(seat)]
    prove(Broken(model, nothing), model.function, model._example, (1, 8))
    # Of a tree in one pass nothing has been scored before.
    for width in (1, 8) if break_it is wrong_sights else (1, 8, 64):
        with pytest.raises(WrongPassError):
            prove(Broken(model, break_it), model.function, model._example, (width,))
    after = [each for seat in states.seats for each in states.copy(seat)]
    assert all(map(torch.equal, before, after)) and any(map(torch.any, after))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=4))
def test_rows_by_their_texts_are_the_rows_of_a_pass(texts: list[tuple[int, int]]) -> None:
    """Of so many rows and earlier ones each. Red when a row is another text's, or is lost where
    sizes are fixed and lines are filled."""
    strip, slots, prefixes = 100, list[int](), list[int]()
    for seat, (num_rows, num_earlier) in enumerate(texts):
        prefix = strip * (3 - seat) + 7
        slots += range(prefix + num_earlier, prefix + num_earlier + num_rows)
        prefixes += [prefix] * num_rows
    window = torch.zeros(1, 2, 3)
    states = States({0: KeptByLayer(window, torch.zeros(1, 1, 2, 2))}, [1], 4, strip)
    zeros = [0] * len(slots)
    rows = torch.tensor([zeros, slots, zeros, zeros, prefixes])
    visible = torch.full((len(slots), NUM_BYTES), 255, dtype=torch.uint8)
    for sizes in (None, states.sizes(len(slots))[1]):
        grouping = states.grouping(rows, sizes)
        made = forest.Lineage(rows, visible, grouping, strip).forest()
        assert made.own.flatten()[made.places].tolist() == [*range(len(slots))]
        for text, (num_rows, num_earlier) in enumerate(texts):
            assert int(made.seats[text]) == 3 - text
            sees = made.sees[text]
            num_columns = len(grouping.earlier)
            assert int(sees[:, :num_columns].sum()) == num_rows * num_earlier
            assert int(sees[:, num_columns:].sum()) == num_rows * num_rows
