"""A replay is right as often as asked for, and a drafter like any other: the text stays."""

import math
import random
from dataclasses import replace

import pytest

from engine.benchmark import (
    Mode,
    ReplayEngine,
    ReplayStageConfig,
    Workload,
    compare,
    expected_length,
    record,
)
from engine.benchmark.replay import Recordings, ReplayDrafter
from engine.config import EngineConfig, NgramStageConfig
from engine.decoder import Decoder
from engine.request import GenerateRequest, Output, SamplingParams
from tests.checkpoints import VOCAB_SIZE, save_checkpoint
from tests.engine.setups import random_request, run, target_model, token_ids
from tests.engine.steps import step_of, text_of

PROMPTS = [(5, 9, 33), (7, 8, 9, 10, 11), (40,), (12, 13)]
WORKLOAD = Workload(PROMPTS, 250, SamplingParams(temperature=1.0, seed=4))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ReplayEngine:
    folder = save_checkpoint(tmp_path_factory.mktemp("target"), eos_token_id=-1)
    return ReplayEngine.load(EngineConfig(str(folder), dtype="float32"))


@pytest.fixture(scope="module")
def recordings(engine: ReplayEngine) -> Recordings:
    """The plain replies to the prompts."""
    return record(engine, WORKLOAD)


def replay(acceptance: float, length: int = 4, seed: int = 0) -> ReplayStageConfig:
    return ReplayStageConfig(budget=length, acceptance=acceptance, seed=seed)


def steps_of(engine: ReplayEngine, index: int) -> list[Output]:
    """A drafted reply to a prompt, as `record` had it plainly, without the first, plain step."""
    sampling = replace(WORKLOAD.sampling, seed=WORKLOAD.sampling.seed + index)
    request = GenerateRequest(
        "r", PROMPTS[index], WORKLOAD.max_tokens, sampling, speculation="always"
    )
    return [item for item in engine.generate(request) if isinstance(item, Output)][1:]


@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.95])
def test_tokens_are_accepted_as_often_as_asked_for(
    engine: ReplayEngine, recordings: Recordings, acceptance: float
) -> None:
    """Red when lots depend on each other, are drawn for nothing, or a wrong token is right.

    A token is put to the test if those before it in its chain were accepted.
    """
    stage = replace(replay(acceptance), recordings=recordings)
    replaying = engine.with_stages((stage,))
    steps = [step.stats for index in range(len(PROMPTS)) for step in steps_of(replaying, index)]
    num_accepted = sum(step.num_accepted_drafts for step in steps)
    num_tested = sum(min(step.num_accepted_drafts + 1, step.num_draft_tokens) for step in steps)
    deviation = math.sqrt(acceptance * (1 - acceptance) / num_tested)
    assert num_tested > 600
    assert num_accepted / num_tested == pytest.approx(acceptance, abs=3 * deviation)


def test_tau_is_what_arithmetic_says(engine: ReplayEngine, recordings: Recordings) -> None:
    """The last chains of a reply are shorter, so τ may stay a little behind."""
    stage = replace(replay(0.8, 6), recordings=recordings)
    result = compare(engine, [Mode("plain", (), "off"), Mode("replay", (stage,))], WORKLOAD, 1)
    plain, replayed = result.results
    assert replayed.acceptance_length == pytest.approx(expected_length(0.8, 6), rel=0.08)
    assert replayed.nodes_per_step == pytest.approx(7, abs=0.1)
    assert replayed.draft_passes_per_step == 0
    assert plain.acceptance_length == 1
    assert set(replayed.stages) == {"replay"}


def test_a_perfect_replay_is_accepted_whole(engine: ReplayEngine, recordings: Recordings) -> None:
    stage = replace(replay(1.0), recordings=recordings)
    steps = steps_of(engine.with_stages((stage,)), 0)
    assert {step.stats.num_accepted_drafts for step in steps[:-1]} == {4}
    assert expected_length(1.0, 4) == 5
    assert expected_length(0.5, 2) == 1.75


def test_a_list_of_stages_is_built_as_by_any_engine(engine: ReplayEngine) -> None:
    """Red when an engine that knows replays forgets what it can build from a configuration."""
    ngrams = (NgramStageConfig(),)
    assert engine.with_stages(ngrams).config.stages == ngrams
    assert engine.with_stages(ngrams).info.stages == ("ngram",)


@pytest.mark.parametrize("seed", range(20))
def test_a_replay_leaves_every_text_as_it_is(seed: int) -> None:
    """Red when a replay could change a text, of the recorded prompt or of another."""
    request = random_request(random.Random(seed))
    plain = token_ids(run(Decoder(target_model()), request, "off")[0])
    others = list(range(VOCAB_SIZE))
    for recorded, acceptance in ((plain, 0.7), (plain, 1.0), (others, 0.7), ([], 0.7)):
        recordings = {request.prompt: tuple(recorded)}
        stage = replace(replay(acceptance, 5, seed), recordings=recordings)
        decoder = Decoder(target_model(), ReplayDrafter(stage, VOCAB_SIZE))
        assert token_ids(run(decoder, request)[0]) == plain


def proposals(acceptance: float, seed: int = 0, start: int = 1) -> list[int]:
    """What is proposed for a reply of zeros after `start` of its tokens."""
    stage = replace(replay(acceptance, 60, seed), recordings={(1, 2): (0,) * 60})
    drafter = ReplayDrafter(stage, VOCAB_SIZE)
    step = step_of(text_of([1, 2, *[0] * start], num_written=start), max_depth=50)
    nodes = drafter.grow(step, [0], drafter.budget)
    assert step.tree.parents == list(range(-1, len(nodes)))
    return [step.tree.tokens[node] for node in nodes]


def test_the_same_tokens_go_wrong_whenever_they_are_proposed() -> None:
    """Red when a repetition of the benchmark would draft for another text than the one before."""
    assert proposals(0.6) == proposals(0.6)
    assert proposals(0.6)[3:] == proposals(0.6, start=4)[:-3]
    assert proposals(0.6) != proposals(0.6, seed=1)


def test_a_better_replay_is_wrong_at_fewer_of_the_same_places() -> None:
    """Red when two acceptances are compared on unrelated lots, which would add their noise."""
    wrong = [{i for i, token in enumerate(proposals(a)) if token} for a in (0.5, 0.7, 0.9, 1.0)]
    assert wrong[0] > wrong[1] > wrong[2] > wrong[3] == set()


def test_a_chain_ends_where_the_text_may_not_go_on() -> None:
    assert len(proposals(1.0)) == 50
    assert proposals(1.0, start=60) == []


def test_an_end_of_text_in_the_recording_ends_the_chain() -> None:
    """Red when nodes are put below a token that ends the text."""
    stage = replace(replay(1.0, 8), recordings={(1,): (3, 4, 5, 6)})
    drafter = ReplayDrafter(stage, VOCAB_SIZE)
    step = step_of(text_of([1], stop_ids={4}), max_depth=8)
    drafter.grow(step, [0], 8)
    assert step.tree.tokens == [1, 3, 4]


def test_without_a_recording_nothing_is_proposed() -> None:
    drafter = ReplayDrafter(replay(0.9), VOCAB_SIZE)
    assert drafter.grow(step_of(text_of([1]), max_depth=8), [0], 4) == []
