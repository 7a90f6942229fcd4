"""The contract that every drafter keeps, and what each kind does beyond it."""

import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.config import EngineConfig, ModelStageConfig
from engine.decoder import Decoder
from engine.drafting.build import StageBuilder, layers_read
from engine.drafting.katz import KatzTable
from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import TableSource
from engine.drafting.stage import NoStage
from engine.economy import Economy, Step
from engine.errors import ConfigError, ModelLoadError
from engine.parts import Part
from engine.passes import PassInputs
from engine.ranking import rank
from engine.request import GenerateRequest, SamplingParams
from engine.scorer import TreeScorer
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import (
    VOCAB_SIZE,
    make_head_weights,
    make_model,
    save_checkpoint,
    save_head_checkpoint,
)
from tests.engine.setups import STAGE_LISTS, model_stage, ngram, run, target_model, token_ids
from tests.engine.steps import step_of, text_of

PROMPT = [5, 9, 33, 7, 5, 9, 33]


def step_after(
    tokens: list[int],
    temperature: float = 0.0,
    max_depth: int = 20,
    stop: frozenset[int] = frozenset(),
) -> Step:
    text = text_of(tokens, SamplingParams(temperature=temperature, seed=3), stop)
    return step_of(text, max_depth)


@pytest.mark.parametrize("budget", [1, 7, 40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_every_drafter_keeps_the_contract(stages: str, temperature: float, budget: int) -> None:
    """Same root, within budget and depth, parents first, nothing below an end of text."""
    drafter = STAGE_LISTS[stages](budget)
    stop = frozenset(range(0, VOCAB_SIZE, 3))
    text = text_of(PROMPT, SamplingParams(temperature=temperature, seed=3), stop)
    tokens, economy = text.tokens, Economy()
    for number in range(4):
        step = economy.step([text], [number * 2])
        Alone(target_model()).reset(tokens)
        Alone(target_model()).score(tokens, TokenTree(tokens[-1]))  # what a head reads
        nodes = drafter.grow(step, [0], budget)
        assert len(nodes) == len(set(nodes)) <= budget
        pruned = step.tree.prune(nodes)[0]
        assert pruned.tokens[0] == tokens[-1]
        assert max(pruned.depths) <= step.max_depths[0]
        assert all(pruned.tokens[p] not in stop for p in pruned.parents[1:] if p > 0)
        assert all(0 <= token < VOCAB_SIZE for token in pruned.tokens)
        assert all(estimate <= 1e-6 for estimate in pruned.estimates)
        tokens += [11, 12]
        assert "none" not in step.turns


def test_a_draft_model_ranks_children_by_the_shared_noise() -> None:
    """At any temperature its first choice is the token that it would itself have sampled."""
    drafter = model_stage(NoStage(), "draft", passes=1)
    for temperature in (0.0, 0.7, 1.5):
        step = step_after(PROMPT, temperature)
        text, tree = step.texts[0], step.tree
        nodes = drafter.grow(step, [0], 3)
        model = drafter._model
        Alone(model).reset(PROMPT)
        logits = Alone(model).score(PROMPT, TokenTree(PROMPT[-1]))
        candidates = rank([text.sampling], [len(PROMPT)], logits)
        (tokens,), (estimates,) = candidates.normalised().top(3)
        assert tokens[:1] == rank([text.sampling], [len(PROMPT)], logits).best()
        assert [tree.tokens[node] for node in nodes] == tokens
        assert [tree.estimates[node] for node in nodes] == pytest.approx(estimates, abs=1e-4)


def chain_of(drafter: ModelDrafter, passes: int) -> ModelDrafter:
    """The same stage, which proposes a chain."""
    config = ModelStageConfig(model="", budget=60, passes=passes, width=1, children=1)
    return ModelDrafter(config, drafter._model, drafter._below, drafter.name, VOCAB_SIZE)


def passes_to_depth(drafter: ModelDrafter, depth: int) -> int:
    """How many draft passes it takes until the likeliest path is `depth` deep."""
    for passes in range(1, depth + 1):
        step = step_after(PROMPT)
        chain_of(drafter, passes).grow(step, [0], 60)
        assert step.turn("draft").num_passes == passes
        if max(step.tree.depths) >= depth:
            return passes
    return depth


def test_right_guesses_from_below_remove_sequential_passes() -> None:
    """draft²'s whole job: what the draft will say, guessed, is evaluated in one pass."""
    alone = model_stage(NoStage(), "draft")
    assert passes_to_depth(alone, 6) == 6
    step = step_after(PROMPT)
    chain_of(alone, 6).grow(step, [0], 60)
    said = [PROMPT[-1], *step.tree.path_tokens(len(step.tree) - 1)]
    table = KatzTable.build([said] * 9, VOCAB_SIZE, min_count=1)
    guided = model_stage(ModelFreeDrafter([TableSource("ngram", table, 3)], 5, 3), "draft")
    assert passes_to_depth(guided, 6) <= 3


def test_a_guess_that_the_draft_doubts_stays_with_a_mixed_score() -> None:
    below = ngram(budget=3)
    drafter = model_stage(below, "draft", passes=1, budget=60)
    step = step_after(PROMPT)
    drafter.grow(step, [0], 60)
    tree, turn = step.tree, step.turn("ngram")
    guesses = [node for node in range(1, len(tree)) if tree.origins[node] == "ngram"]
    assert guesses
    assert all(-5 < tree.estimates[node] < 0 for node in guesses)
    assert turn.num_guesses == 3


def test_a_text_beyond_the_drafts_window_is_left_to_the_stage_below() -> None:
    drafter = model_stage(ngram(), "draft")
    drafter._model.max_model_len = 20
    step = step_after(PROMPT * 5)
    nodes = drafter.grow(step, [0], 10)
    assert nodes
    assert {step.tree.origins[node] for node in nodes} == {"ngram"}


def test_where_no_pass_is_expected_to_pay_the_step_is_left_to_the_stage_below() -> None:
    """Red when a draft goes through its passes' prospects, or runs one, in such a step."""
    drafter, economy = model_stage(ngram(), "draft"), Economy()
    economy.costs().curve("target").replace({1: 1.0})
    economy.costs().curve("draft").replace({1: 0.1})
    text = text_of([*PROMPT, 5], num_written=1, max_tokens=20, speculation="auto")
    step = step_of(text, economy=economy)
    assert drafter.grow(step, [0], 10)
    assert step.turn("draft").num_passes > 0
    for _ in range(100):
        step.turn("draft").account.settle_asking(0.1, -0.1)
    step = step_of(text, economy=economy)
    assert drafter.grow(step, [0], 10)
    assert step.turn("draft").num_passes == 0
    assert set(step.tree.origins[1:]) == {"ngram"}


def test_a_draft_with_a_smaller_window_drafts_until_it_is_outgrown() -> None:
    """However many tokens are still to come, and never beyond what the model knows."""
    drafter = model_stage(NoStage(), "draft", budget=40, passes=6)
    drafter._model.max_model_len = 10
    step = step_after(PROMPT, max_depth=400)
    assert drafter.grow(step, [0], 40)
    assert max(step.tree.depths) == 10 - len(PROMPT)


def test_one_model_cannot_stand_in_two_stages(tmp_path: Path) -> None:
    folder = str(save_checkpoint(tmp_path))
    stages = [{"kind": "model", "model": folder}, {"kind": "model", "model": folder}]
    config = EngineConfig.from_mapping({"model": "", "stages": stages})
    with pytest.raises(ModelLoadError, match="name one model twice"):
        StageBuilder(config, target_model()).build(config.stages)


def test_the_look_up_proposes_what_followed_before_and_trusts_long_matches_more() -> None:
    stage = ngram("look-up", budget=4, table=False)
    rng = random.Random(2)
    text = [rng.randrange(VOCAB_SIZE) for _ in range(40)]
    for shared, trust in ((3, 0.5), (30, 30 / 33)):
        step = step_after(text + text[:shared])
        tree = step.tree
        nodes = stage.grow(step, [0], 4)
        assert [tree.tokens[node] for node in nodes] == text[shared : shared + 4]
        assert tree.estimates[nodes[0]] == pytest.approx(math.log(trust))


@pytest.mark.parametrize("period", [3, 5, 8])
def test_the_look_up_follows_a_period_beyond_the_end_of_the_text(period: int) -> None:
    """A long match that reaches the end of what was written is looked for anew."""
    drafter = ngram(budget=24, table=False)
    step = step_after([1 + i % period for i in range(40)], max_depth=40)
    nodes = drafter.grow(step, [0], 24)
    assert max(step.tree.depths[node] for node in nodes) == 24


def test_a_draft_that_says_nothing_sensible_changes_no_text() -> None:
    """Logits that are no numbers, as an overflow makes them, are not drafted and break nothing."""
    drafter = model_stage(NoStage(), "draft")
    with torch.no_grad():
        drafter._model.network.get_output_embeddings().weight[3] = math.nan  # type: ignore[operator]
    request = GenerateRequest("r", (5, 6, 7), 16, SamplingParams(temperature=1.0, seed=3))
    texts = [
        token_ids(run(Decoder(target_model(), drafter), request, speculation)[0])
        for speculation in ("off", "always", "auto")
    ]
    assert texts[0] == texts[1] == texts[2]


def test_the_table_chooses_under_the_positions_noise() -> None:
    """Over many seeds its first choice follows the table, and it is not always the same."""
    table = KatzTable.build([[1, 2, 3], [1, 2, 4], [1, 2, 3]] * 20, VOCAB_SIZE, min_count=1)
    stage = ModelFreeDrafter([TableSource("ngram", table, 1)], 1, 1)
    firsts = []
    for seed in range(300):
        step = step_of(text_of([1, 2], SamplingParams(seed=seed)), max_depth=3)
        stage.grow(step, [0], 1)
        firsts.append(step.tree.tokens[1])
    assert firsts.count(3) + firsts.count(4) > 250
    assert 0.5 < firsts.count(3) / len(firsts) < 0.8


NAMES = ["grammar", "prediction", "ngram", "recycle"]


def test_stages_are_built_from_a_configuration_and_checked_against_the_target(
    tmp_path: Path,
) -> None:
    good = save_checkpoint(tmp_path / "good", seed=1)
    other = save_checkpoint(tmp_path / "other", vocab_size=100)

    def build(*stages: dict[str, object]) -> object:
        config = EngineConfig.from_mapping(
            {"model": "", "dtype": "float32", "stages": list(stages)}
        )
        return StageBuilder(config, target_model()).build(config.stages)

    nothing = build()
    assert isinstance(nothing, ModelFreeDrafter)
    assert [source.name for source in nothing.sources] == ["grammar"]
    assert isinstance(build({"kind": "ngram"}), ModelFreeDrafter)
    assert isinstance(build({"kind": "model", "model": str(good)}, {"kind": "ngram"}), ModelDrafter)
    with pytest.raises(ModelLoadError, match="must share its target's tokenizer"):
        build({"kind": "model", "model": str(other)})
    both = build({"kind": "ngram", "budget": 7}, {"kind": "recycle"})
    assert isinstance(both, ModelFreeDrafter) and both.budget == 7
    assert [source.name for source in both.sources] == NAMES
    turned = build({"kind": "recycle"}, {"kind": "ngram"})
    assert isinstance(turned, ModelFreeDrafter)
    assert [source.name for source in turned.sources] == [*NAMES[:2], *NAMES[:1:-1]]
    with pytest.raises(ConfigError, match="two n-gram stages look up the same"):
        build({"kind": "ngram"}, {"kind": "ngram", "budget": 3})
    for kind in ("ngram", "recycle"):
        with pytest.raises(ModelLoadError, match="name it after those"):
            build({"kind": kind}, {"kind": "model", "model": str(good)})
    with pytest.raises(ModelLoadError):
        build({"kind": "ngram", "table": str(tmp_path / "nothing")})


WIDE = 640
NARROWER = 634
"""A vocabulary that was padded less than one of `WIDE`."""


@pytest.mark.parametrize("num_target", [WIDE, NARROWER])
@pytest.mark.parametrize("stage", ["table", "draft", "head", "draft over table", "look-up"])
def test_a_stage_of_another_padding_serves_every_id_of_its_target(
    tmp_path: Path, stage: str, num_target: int
) -> None:
    """Red when an id behind a stage's vocabulary, or of a stage behind the target's, ends it."""
    num_drafts = WIDE + NARROWER - num_target
    target = make_model(vocab_size=num_target, num_hidden_layers=3)
    texts = [[*range(num_drafts - 9, num_drafts), *range(40)] * 3]
    KatzTable.build(texts, num_drafts, min_count=1).save(tmp_path)
    table = {"kind": "ngram", "table": str(tmp_path), "lookup": False}
    draft = {"kind": "model", "model": str(tmp_path / "draft")}
    if "draft" in stage:
        save_checkpoint(tmp_path / "draft", vocab_size=num_drafts)
    head_config, weights = make_head_weights(
        target.network, [*range(0, NARROWER, 3)], vocab_size=num_drafts
    )
    weights["embed_tokens.weight"] = torch.randn(num_drafts, target.hidden_size)
    save_head_checkpoint(tmp_path / "head", head_config, weights)
    stages: dict[str, list[dict[str, object]]] = {
        "table": [table],
        "draft": [draft],
        "head": [{"kind": "head", "model": str(tmp_path / "head")}],
        "draft over table": [draft, table],
        "look-up": [{"kind": "ngram"}],
    }
    config = EngineConfig.from_mapping({"model": "", "dtype": "float32", "stages": stages[stage]})
    drafter = StageBuilder(config, target).build(config.stages)
    target.keep_features(layers_read(drafter))
    decoder = Decoder(target, drafter)
    for temperature in (0.0, 1.0):
        for before, last in ((num_target - 1, num_target - 2), (3, num_target - 1), (7, 8)):
            prompt = (5, before, last, 9, 9, before, last)
            sampling = SamplingParams(temperature, seed=last)
            request = GenerateRequest("r", prompt, 12, sampling, ignore_eos=True)
            plain, drafted = (run(decoder, request, kind)[0] for kind in ("off", "always"))
            assert token_ids(drafted) == token_ids(plain)


@dataclass
class Counted:
    """Logits of a network: how many were asked for, and of how many rows it has computed any."""

    asked: int = 0
    computed: int = 0


def watch(scorer: TreeScorer, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Counted:
    """From now on count a network's logits."""
    counted, forward = Counted(), scorer._forward

    def watched(parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        counted.asked += sum(len(part.nodes) for part in parts)
        return forward(parts, inputs)

    def count(module: nn.Module, given: object, logits: Tensor) -> None:
        counted.computed += logits.shape[-2]

    monkeypatch.setattr(scorer, "_forward", watched)
    output_matrix = scorer.network.get_submodule("lm_head")
    stack.enter_context(output_matrix.register_forward_hook(count))
    return counted


@pytest.mark.parametrize("stages", ["draft over draft over ngram", "head over draft over ngram"])
@pytest.mark.parametrize("num_scored", [None, 0])
def test_no_network_computes_logits_that_nobody_asked_for(
    stages: str, num_scored: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a chunk of a prompt, or what a stage lacks of the text, gets logits row by row."""
    drafter = STAGE_LISTS[stages](12)
    scorers = {"target": target_model(), **drafter.scorers()}
    prompt = tuple(random.Random(0).randrange(VOCAB_SIZE) for _ in range(90))
    request = GenerateRequest("r", prompt, 24, num_prompt_logprobs=num_scored)
    with ExitStack() as stack:
        counted = {name: watch(scorer, monkeypatch, stack) for name, scorer in scorers.items()}
        steps, _ = run(Decoder(target_model(), drafter), request, "always")
    nodes = sum(step.stats.num_nodes for step in steps)
    assert counted["target"].asked == nodes + (0 if num_scored is None else len(prompt) - 1)
    for counts in counted.values():
        assert 0 < counts.asked == counts.computed
