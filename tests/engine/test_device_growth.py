"""Passes that follow one another on the device find what passes driven by the host would find.

There is no CUDA graph on a CPU: what is recorded here is run again, over the same buffers. Where
there is a GPU the same holds of real graphs (`-m gpu`).
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import ModelStageConfig
from engine.decoder import Decoder
from engine.drafting.children import GUESS_WEIGHT
from engine.drafting.device_passes import DevicePasses
from engine.drafting.head import HeadModel
from engine.drafting.model import ModelDrafter
from engine.drafting.on_device import OnDevice
from engine.drafting.stage import Drafter, NoStage
from engine.economy import Economy, Outcome, Step, Turn
from engine.economy.account import Account
from engine.economy.beliefs import Claims
from engine.economy.choice import Prospects
from engine.loading import read_limits
from engine.model import Model
from engine.noise import noise_of
from engine.passes.function import Run
from engine.ranking import rank
from engine.request import SamplingParams
from engine.scorer import TreeScorer
from engine.stats import StageStats
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import VOCAB_SIZE, make_network
from tests.engine.setups import (
    STAGE_LISTS,
    fitted_head,
    model_stage,
    random_request,
    run,
    target_model,
    token_ids,
)
from tests.engine.steps import step_of, text_of
from tests.engine.test_captured import DEVICES, capture
from tests.engine.test_lossless import play

Path = tuple[int, ...]
"""A node by the tokens from just below the root down to it."""

GREEDY = SamplingParams(0.0)
SAMPLED = SamplingParams(0.8, top_k=30, top_p=0.9, min_p=0.01, seed=-5)


def again_and_again(run: Run) -> Run:
    """A recorder for a CPU, that warms up as the one for a GPU does: a replay is another run."""
    for _ in range(4):
        run()
    return run


class Script(NoStage):
    """A stage that guesses what a test tells it to: paths, parents first, and their estimates."""

    name = "script"

    def __init__(self, guesses: dict[Path, float]) -> None:
        self.budget = len(guesses)
        self.guesses = guesses

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Every guess that is not below an end."""
        nodes = {(): 0}
        for path, estimate in self.guesses.items():
            above = nodes.get(path[:-1])
            if above is not None and step.can_extend(above):
                nodes[path] = step.tree.add(above, path[-1], estimate, "script")
        return list(nodes.values())[1:]


def make_draft(kind: str, device: str) -> Model:
    network = make_network(kind).to(device)
    model = Model(network, read_limits(network.config), 512, chunk=16)
    return model if device == "cpu" else capture(model)  # type: ignore[return-value]


def stage_over(model: TreeScorer, below: Drafter, **sizes: int) -> ModelDrafter:
    """A stage whose later passes are run on the model's device."""
    config = ModelStageConfig(model="", budget=200, **sizes)
    drafter = ModelDrafter(config, model, below, "draft", VOCAB_SIZE)
    if model.device.type == "cpu":
        drafter.go_on_on_device(again_and_again, noise_of)
    return drafter


@dataclass
class Reference:
    """Best-first growth as one would write it without a thought of devices, a path at a time.

    Every path is scored as a text of its own, by a model with an empty cache.
    """

    model: Model
    context: Step
    width: int
    passes: int
    children: int
    guesses: dict[Path, float]
    worths: Sequence[float] = (1.0,) * 9
    listed: dict[Path, dict[int, float]] = field(default_factory=dict)
    rows: list[Path] = field(default_factory=list)

    def grow(self) -> None:
        """Fill `rows`, evaluated paths in order, and `listed`, their children."""
        scores: dict[Path, float] = {(): 0.0}
        candidates: dict[Path, float] = {}
        batch = [(), *(path for path in self.guesses if self.is_open(path))]
        for number in range(self.passes):
            self.rows += batch
            for path in batch:
                chances = self.chances(path)
                for guess in batch if number == 0 else []:
                    if guess and guess[:-1] == path:
                        opinion = math.exp(chances[guess[-1]])
                        guessed = math.exp(self.guesses[guess])
                        mixed = (1 - GUESS_WEIGHT) * opinion + GUESS_WEIGHT * guessed
                        scores[guess] = scores[path] + math.log(mixed)
                best = chances.topk(self.children)
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                self.listed[path] = {token: value for token, value in pairs if value > -math.inf}
                for (token, value), worth in zip(
                    self.listed[path].items(), self.worths, strict=False
                ):
                    candidates[(*path, token)] = scores[path] + value + math.log(worth)
            waiting = [path for path in candidates if path not in self.rows and self.is_open(path)]
            batch = heapq.nlargest(self.width, waiting, key=candidates.__getitem__)
            scores |= {path: candidates[path] for path in batch}

    def is_open(self, path: Path) -> bool:
        is_end = any(token in self.context.texts[0].stop_ids for token in path)
        return len(path) < self.context.max_depths[0] and not is_end

    def chances(self, path: Path) -> Tensor:
        text = [*self.context.texts[0].tokens, *path]
        Alone(self.model).reset([])
        logits = Alone(self.model).score(text, TokenTree(text[-1]))
        candidates = rank([self.context.texts[0].sampling], [len(text)], logits).normalised()
        tokens = range(VOCAB_SIZE)
        return torch.tensor(candidates.of([0] * len(tokens), tokens))


def random_guesses(rng: random.Random, count: int) -> dict[Path, float]:
    """A random tree of so many paths, some of them likely to be what a draft says."""
    paths: list[Path] = [()]
    while len(paths) <= count:
        path = (*rng.choice(paths), rng.randrange(VOCAB_SIZE))
        if path not in paths:
            paths.append(path)
    return {path: -rng.random() for path in paths[1:]}


def random_context(rng: random.Random, params: SamplingParams) -> Step:
    tokens = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(2, 40))]
    stop = frozenset(rng.sample(range(VOCAB_SIZE), rng.randrange(4)))
    return step_of(text_of(tokens, params, stop), rng.randrange(1, 9))


def grown(drafter: ModelDrafter, context: Step) -> TokenTree:
    while drafter._model.read(context.texts[0]):
        pass
    drafter.grow(context, [0], drafter.budget)
    return context.tree


def assert_found(drafter: ModelDrafter, tree: TokenTree, wanted: Reference) -> None:
    """The rows and the children of the drafter are those of the reference."""
    rows = [tuple(tree.path_tokens(node)) for node in Alone(drafter._model).rows.nodes]
    num_first = 1 + sum(wanted.is_open(path) for path in wanted.guesses)
    assert set(rows[:num_first]) == set(wanted.rows[:num_first])
    assert rows[num_first:] == wanted.rows[num_first:]
    for path, node in zip(rows, Alone(drafter._model).rows.nodes, strict=True):
        listed = {
            tree.tokens[child]: tree.estimates[child]
            for child in tree.children(node)
            if tree.origins[child] == "draft"
        }
        expected = {
            token: value
            for token, value in wanted.listed[path].items()
            if (*path, token) not in wanted.guesses
        }
        assert listed == pytest.approx(expected, abs=2e-3), path


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_and_children_are_those_of_plain_best_first_growth(
    kind: str, params: SamplingParams, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a row has another mask, position or slot than it should, is chosen out of turn, is
    evaluated twice, or when children are ranked by other noise or other filters than the target's.
    """
    rng = random.Random(f"{kind}{params}")
    plain, model = make_draft(kind, "cpu"), make_draft(kind, device)
    for _ in range(8):
        guesses = random_guesses(rng, rng.choice([0, 0, 3, 12]))
        sizes = {"width": rng.choice([1, 2, 4, 7]), "children": rng.randrange(1, 5)}
        sizes["passes"] = rng.randrange(2, 7)
        drafter = stage_over(model, Script(guesses), **sizes)
        for _ in range(2):
            context = random_context(rng, params)
            worths = [rng.choice([1.0, rng.random()]) for _ in range(sizes["children"])]
            monkeypatch.setattr(Claims, "worth", lambda _, kind, worths=worths: worths[kind[1]])
            wanted = Reference(plain, context, guesses=guesses, worths=worths, **sizes)
            wanted.grow()
            assert_found(drafter, grown(drafter, context), wanted)


def test_a_guess_that_the_draft_confirms_is_not_evaluated_twice() -> None:
    model = make_draft("llama", "cpu")
    text = text_of([3, 1, 4, 1, 5], GREEDY)
    tree = grown(stage_over(model, NoStage(), width=3, passes=3, children=3), step_of(text, 9))
    said = tuple(tree.path_tokens(tree.children(0)[0]))
    script = Script({said: -0.1, (*said, 7): -3.0})
    drafter = stage_over(make_draft("llama", "cpu"), script, width=3, passes=3, children=3)
    step = step_of(text, 9)
    grown(drafter, step)
    nodes = Alone(drafter._model).rows.nodes
    assert len(nodes) == len(set(nodes)) == 3 + 2 * 3
    assert step.turn("draft").num_passes == 3
    guesses = step.turn("script")
    assert (guesses.num_guesses, guesses.num_confirmed) in {(2, 1), (2, 2)}


def test_rows_too_unlikely_to_pay_get_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when the host handles nodes that can never pay, or forgets the rows that they have."""
    model, floor = make_draft("llama", "cpu"), 0.05
    prospects = Prospects([0.0], 0.0, least=floor)
    monkeypatch.setattr(Step, "prospects", lambda self, budget: prospects)
    drafter = stage_over(model, NoStage(), width=5, passes=5, children=3)
    tree = grown(drafter, step_of(text_of([3, 1, 4], GREEDY), 9))
    scores, nodes = tree.scores(), Alone(model).rows.nodes
    assert len(nodes) == len(set(nodes)) == 1 + 3 + 3 * 5
    likely = [node for node in nodes if math.exp(scores[node]) >= floor]
    assert [node for node in nodes if tree.children(node) and node in likely] == likely
    assert 1 < len(likely) < len(nodes)
    unlikely = [node for node in nodes if node not in likely]
    listed = [child for node in unlikely for child in tree.children(node)]
    assert set(listed) <= set(unlikely), "only what was evaluated itself"
    Alone(model).commit(tree, tree.path(nodes[-1]))
    text = [3, 1, 4, *tree.path_tokens(nodes[-1]), 9]
    got = Alone(model).score(text, TokenTree(9))
    assert torch.allclose(
        got, Alone(make_draft("llama", "cpu")).score(text, TokenTree(9)), atol=2e-4
    )


@pytest.mark.parametrize("device", DEVICES)
def test_rows_written_on_the_device_can_be_committed(device: str) -> None:
    """Red when a row goes elsewhere than the tree's next row, or a pass that is not full leaves a
    gap.
    """
    rng = random.Random(4)
    plain, model = make_draft("llama", "cpu"), make_draft("llama", device)
    drafter = stage_over(model, NoStage(), width=5, passes=5, children=2)
    for _ in range(12):
        context = random_context(rng, GREEDY)
        tree = grown(drafter, context)
        path = tree.path(rng.choice(Alone(model).rows.nodes))
        Alone(model).commit(tree, path)
        text = [*context.texts[0].tokens, *(tree.tokens[node] for node in path), 9]
        Alone(plain).reset([])
        got, wanted = (Alone(each).score(text, TokenTree(9)).cpu() for each in (model, plain))
        assert torch.allclose(got, wanted, atol=2e-4)


def test_a_head_reads_its_parents_output_on_the_device() -> None:
    """Red when a row reads another row's output, or a later pass on the host finds none."""
    rng, target = random.Random(8), target_model()
    for _ in range(6):
        head, eager = (HeadModel(fitted_head(), target, chunk=16) for _ in range(2))
        drafter = stage_over(head, NoStage(), width=3, passes=4, children=3)
        context = random_context(rng, GREEDY)
        context.max_depths, tokens = [6], context.texts[0].tokens
        Alone(target).reset(tokens)
        Alone(target).score(tokens, TokenTree(tokens[-1]))
        tree = grown(drafter, context)
        Alone(eager).reset(tokens)
        for node in Alone(head).rows.nodes:
            logits = Alone(eager).score(tokens, tree, [node]).log_softmax(dim=-1)[0]
            for child in tree.children(node):
                said = logits[tree.tokens[child]].item()
                assert tree.estimates[child] == pytest.approx(said, abs=2e-3)
        leaf = tree.children(Alone(head).rows.nodes[-1])[0]
        got, wanted = (Alone(each).score(tokens, tree, [leaf]) for each in (head, eager))
        assert torch.allclose(got, wanted, atol=2e-4)


class NoHost(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: figures that the host asks for, or that it brings."""

    _REFUSED = frozenset({"_local_scalar_dense", "lift_fresh", "nonzero", "scalar_tensor"})

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        assert name not in self._REFUSED, f"{name} cannot be recorded"
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("kind", ["llama", "head"])
def test_nothing_that_is_recorded_asks_the_host(kind: str) -> None:
    """Red when a pass would be refused by a CUDA graph, and go back to the host for ever."""

    def record(run: Run) -> Run:
        with NoHost():
            run()
        return run

    def no_noise(seed: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        return torch.zeros_like(tokens, dtype=torch.float32)

    model = make_draft(kind, "cpu") if kind == "llama" else HeadModel(fitted_head(), target_model())
    config = ModelStageConfig(model="", budget=200, width=3, passes=4, children=3)
    drafter = ModelDrafter(config, model, NoStage(), "draft", VOCAB_SIZE)
    assert model.runner.form == "eager"  # it and its cache are there before anything is recorded
    drafter.go_on_on_device(record, no_noise)
    with pytest.raises(AssertionError, match="cannot be recorded"):
        drafter.go_on_on_device(record, noise_of)


def growing(monkeypatch: pytest.MonkeyPatch, noise: object = noise_of) -> None:
    """From now on every model stage goes on on its device, though that be a CPU."""
    original = ModelDrafter.__init__

    def init(self: ModelDrafter, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        self.go_on_on_device(again_and_again, noise)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelDrafter, "__init__", init)


@pytest.mark.parametrize(
    "stages",
    ["draft", "draft over ngram", "draft over draft over ngram", "head", "head over ngram"],
)
def test_the_text_is_the_same_with_growth_on_the_device(
    stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And drafts are accepted and rejected, or it would prove nothing."""
    calls: list[int] = []
    original = DevicePasses.run

    def counted(self: DevicePasses, *arguments: object) -> object:
        calls.append(1)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DevicePasses, "run", counted)
    growing(monkeypatch)
    num_different, totals = play(stages, num_cases=12)
    assert num_different == 0
    assert len(calls) > 20
    for stage in totals.values():
        assert 0 < stage.num_accepted < stage.num_proposed, stage


@pytest.mark.parametrize("stages", ["draft over ngram", "head over ngram"])
def test_an_economy_that_counts_its_time_leads_to_the_same_text(
    stages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when passes on the device cannot be rehearsed, or their number is asked of nobody."""
    asked: list[int] = []
    original = Turn.num_to_go_on

    def num_to_go_on(self: Turn, most: int) -> int:
        asked.append(original(self, most))
        return asked[-1]

    def everything(self: Turn, waiting: list[int], *_: int) -> list[int]:
        return sorted(waiting)  # whatever passes take on the machine that runs this

    monkeypatch.setattr(Turn, "num_to_go_on", num_to_go_on)
    monkeypatch.setattr(Turn, "worth_evaluating", everything)
    growing(monkeypatch)
    rng, decoder = random.Random(5), Decoder(target_model(), STAGE_LISTS[stages](20))
    decoder.measure(seconds=0.0)
    for _ in range(8):
        request = random_request(rng)
        texts = [
            token_ids(run(decoder, request, speculation)[0]) for speculation in ("off", "auto")
        ]
        assert texts[0] == texts[1]
    assert asked


def accepted_share(noise: object) -> float:
    """Of a noisy draft's proposals at temperature 1, by device growth under this noise."""
    with pytest.MonkeyPatch.context() as patch:
        growing(patch, noise)
        stats: StageStats = play("draft", num_cases=12, seed=1)[1]["draft"]
    return stats.num_accepted / stats.num_proposed


def test_children_are_ranked_under_the_noise_of_their_own_position() -> None:
    """Red when the device asks for the noise of the row's position, which agrees with nothing."""

    def of_another_position(seed: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        return noise_of(seed, positions + 1, tokens)

    assert accepted_share(noise_of) > 1.3 * accepted_share(of_another_position)


def test_trees_that_are_too_wide_or_deeper_than_a_window_are_left_to_the_host() -> None:
    narrow = passes_of(stage_over(make_draft("mistral", "cpu"), NoStage(), **SIZES))
    context = step_of(text_of([1, 2], GREEDY), max_depth=9)
    context.tree = TokenTree.from_parents(range(4), range(-1, 3))
    assert narrow.fits(context, [0, 1])
    assert not narrow.fits(context, [2, 3])
    wide = passes_of(stage_over(make_draft("llama", "cpu"), NoStage(), **SIZES))
    assert not wide.fits(context, [0] * 65)
    context.tree = TokenTree(0)
    for token in range(1, 64):
        context.tree.add(0, token)
    assert wide.fits(context, range(64))
    context.texts[0].stop_ids = frozenset(range(33))
    assert not wide.fits(context, range(64))


SIZES = {"width": 2, "passes": 4, "children": 2}


def passes_of(drafter: ModelDrafter) -> DevicePasses:
    assert isinstance(drafter._expander, OnDevice)
    return drafter._expander._passes


@pytest.mark.parametrize(
    "asked",
    [
        {"presence_penalty": 1.0},
        {"logit_bias": ((3, 1.0),)},
        {"temperature": 1.0, "typical_p": 0.9},
        {"temperature": 1.0, "top_n_sigma": 1.0},
        {"temperature": 1.0, "xtc_probability": 0.5},
    ],
)
def test_texts_that_are_edited_or_rarely_filtered_are_left_to_the_host(
    asked: dict[str, object],
) -> None:
    """Red when the device would draft what the target will hardly choose."""
    passes = passes_of(stage_over(make_draft("llama", "cpu"), NoStage(), **SIZES))
    for params, is_fit in ((GREEDY, True), (replace(GREEDY, **asked), False)):
        assert passes.fits(step_of(text_of([1, 2], params), 9), [0]) is is_fit


def test_a_cpu_goes_back_to_the_host_for_every_pass() -> None:
    drafter = model_stage(NoStage(), "draft")
    capture(drafter._model)
    drafter.rehearsals(text_of([1, 2, 3]))
    assert drafter._expander is drafter._on_host


@pytest.mark.gpu
def test_a_gpu_goes_on_by_itself_once_its_passes_are_captured() -> None:
    model = make_draft("llama", "cuda")
    drafter = stage_over(model, NoStage(), width=2, passes=3, children=2)
    drafter.rehearsals(text_of([1, 2, 3]))
    assert isinstance(drafter._expander, OnDevice)


class Steps:
    """An economy that a test leads from step to step: a chain, of which so much is accepted.

    A step takes `step` milliseconds and each pass after the first `price`; the draft's first pass
    is free. Of each step's chain the first `right(step)` nodes are accepted.
    """

    def __init__(self, price: float = 0.2, step: float = 4.0) -> None:
        self.economy = Economy()
        self.text = text_of([1, 2], num_written=1, speculation="auto")
        self.price, self.milliseconds = price, step

    def run(self, num_right: int, most: int = 6) -> int:
        """One step; how many passes there were after the first."""
        step = self.economy.step([self.text], [1000])
        turn = step.turn("draft")
        count = turn.num_to_go_on(most)
        turn.run(1, self.price * count, [[number + 1] for number in range(count)])
        num_accepted = min(num_right, count + 1)
        reached = [(node, 7) for node in range(num_accepted + 1)]
        total = self.milliseconds + self.price * count
        proposed, accepted = ["draft"] * (count + 1), ["draft"] * num_accepted
        step.learn(
            Outcome(
                *(reached, total, self.milliseconds, 0.0, 1, count + 2, proposed, accepted),
                parents=range(num_accepted),
            )
        )
        return count


def test_a_draft_that_is_always_wrong_is_given_no_more_passes_but_in_rare_trials() -> None:
    """Red when passes are run for nothing, or never again."""
    steps = Steps()
    counts = [steps.run(0) for _ in range(2000)]
    assert counts[0] == 6
    assert sum(counts[200:]) < 0.1 * len(counts[200:])
    assert 1 in counts[200:]


def test_a_draft_that_is_right_so_far_is_given_as_many_passes() -> None:
    """Red when passes that bring nothing hide behind those that do, or cannot be found again."""
    steps = Steps()
    assert [steps.run(3) for _ in range(200)][-100:].count(2) > 90
    assert [steps.run(9) for _ in range(600)][-100:].count(6) > 90
    assert [steps.run(0) for _ in range(400)][-100:].count(0) > 90


def test_a_dear_pass_must_bring_more_than_a_cheap_one() -> None:
    def passes_for(price: float) -> int:
        steps, dice = Steps(price), random.Random(3)
        counts = [steps.run(dice.choice([0, 1, 2, 3, 4, 5, 6, 7])) for _ in range(400)]
        return sum(counts[-200:])

    assert passes_for(0.02) > 1.5 * passes_for(0.8) > 0


def test_for_a_text_that_is_always_drafted_for_every_pass_is_run() -> None:
    steps = Steps(price=50.0)
    steps.text = text_of([1, 2], num_written=1, speculation="always")
    assert {steps.run(0) for _ in range(100)} == {6}


def test_another_text_gives_every_pass_another_chance() -> None:
    account = Account(pass_milliseconds=0.4, token_milliseconds=4.0)
    for _ in range(200):
        account.num_that_pay(2)
        account.settle_passes([0, 0])
    assert account.num_that_pay(2) == 0
    account.start_text(1.0)
    assert account.num_that_pay(2) == 2
