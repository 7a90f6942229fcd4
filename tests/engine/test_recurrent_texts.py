"""Texts of networks that keep a state are the same, whatever drafts, sits beside or came before."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from engine.api import Engine
from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig, NgramStageConfig
from engine.decoder import Decoder
from engine.drafting.head import HeadModel
from engine.drafting.head_checkpoint import build_head
from engine.drafting.model import ModelDrafter
from engine.drafting.sources import LookupSource
from engine.drafting.stage import Drafter, NoStage
from engine.errors import ConfigError
from engine.model import Model
from engine.recurrent import SeatState
from engine.request import GenerateRequest, SamplingParams
from engine.rows import Tokens
from engine.tree import TokenTree
from tests.checkpoints import (
    HYBRIDS,
    VOCAB_SIZE,
    make_head_weights,
    make_model,
    save_checkpoint,
)
from tests.engine.setups import (
    NUM_SEATS,
    in_float32,
    noisy_copy,
    random_request,
    recycle,
    run,
    token_ids,
)
from tests.engine.test_company import play as play_together
from tests.engine.test_company import requests_of
from tests.fakes import AdversarialDrafter

pytestmark = in_float32


@cache
def target(architecture: str) -> Model:
    return make_model(architecture, num_seats=NUM_SEATS)


@cache
def draft(architecture: str) -> Model:
    """What it says is often what the target says."""
    return noisy_copy(target(architecture), 0.1)


def drafting(architecture: str, below: Drafter) -> ModelDrafter:
    config = ModelStageConfig(model="", budget=16, passes=3, width=4, children=3)
    return ModelDrafter(config, draft(architecture), below, "draft", VOCAB_SIZE)


STAGES: dict[str, Callable[[str], Drafter]] = {
    "adversary": lambda _: AdversarialDrafter(8, 12, VOCAB_SIZE),
    "look-up with recycle": lambda _: recycle(12, LookupSource("look-up")),
    "draft over recycle": lambda architecture: drafting(architecture, recycle()),
    "draft without a state": lambda _: ModelDrafter(
        ModelStageConfig(model="", budget=16, passes=3, width=4, children=3),
        make_model("llama", num_seats=NUM_SEATS),
        NoStage(),
        "draft",
        VOCAB_SIZE,
    ),
}


def num_different(architecture: str, stages: str, num_cases: int = 3) -> tuple[int, int]:
    """How many random texts differ from plain ones, and how many drafted tokens were right."""
    rng, different, right = random.Random(f"{architecture}{stages}"), 0, 0
    decoder = Decoder(target(architecture), STAGES[stages](architecture))
    for _ in range(num_cases):
        request = random_request(rng)
        plain = token_ids(run(Decoder(target(architecture)), request, "off")[0])
        steps, finished = run(decoder, request, "always")
        different += token_ids(steps) != plain
        right += sum(stage.num_accepted for stage in finished.stats.stages.values())
    return different, right


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_the_text_is_the_same_with_and_without_speculation(architecture: str, stages: str) -> None:
    """Red when any stage changes it; and a good draft was right, or it would prove nothing."""
    different, right = num_different(architecture, stages)
    assert different == 0
    assert right > 0 or not stages.startswith("draft over")


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_a_prompt_may_be_read_and_nothing_written(architecture: str) -> None:
    """Red when a path of no nodes is folded into a state."""
    decoder = Decoder(target(architecture))
    steps, finished = run(decoder, GenerateRequest("r", (1, 2, 3, 4), 0), "off")
    assert finished.reason == "length" and token_ids(steps) == []
    assert token_ids(run(decoder, GenerateRequest("s", (1, 2, 3, 4), 3), "off")[0])


def test_a_head_reads_a_target_that_keeps_states() -> None:
    """Red when hidden states of a text that went back, or of a tree, are another row's: the text
    would be the same, so what is compared is what the head was given."""
    model = make_model("qwen3_5_text")
    model.keep_features((0, 1, 2))
    config, weights = make_head_weights(model.network)
    head = HeadModel(build_head("", config, {**weights}, model), model, chunk=16)
    sizes = HeadStageConfig(model="", budget=12, passes=3, width=4, children=3)
    decoder = Decoder(model, ModelDrafter(sizes, head, NoStage(), "head", VOCAB_SIZE))
    rng = random.Random(2)
    first = [rng.randrange(VOCAB_SIZE) for _ in range(60)]
    for prompt in (first, [*first[:40], 7, 8, 9]):
        params = SamplingParams(temperature=0.0)
        request = GenerateRequest("r", tuple(prompt), 12, params, ignore_eos=True)
        steps, finished = run(decoder, request)
        assert finished.stats.num_draft_tokens > 0
        text = [*prompt, *token_ids(steps)]
        length = len(model.strips.seats[0].tokens)
        fresh = make_model("qwen3_5_text")
        fresh.keep_features((0, 1, 2))
        fresh.score([Tokens([*text])], TokenTree(text[-1]))
        kept, right = (each.features(0, 0, length) for each in (model, fresh))
        assert torch.allclose(kept, right, atol=1e-4 * float(right.abs().max()))


def test_a_state_of_another_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SeatState.accept

    def accept(self: SeatState, path: list[int]) -> None:
        original(self, path[:1] * len(path))

    monkeypatch.setattr(SeatState, "accept", accept)
    assert num_different("qwen3_5_text", "draft over recycle", 6)[0] > 0


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_texts_in_company_are_what_they_are_alone(architecture: str) -> None:
    """At seats of their own, cancelled and begun anew, with beginnings that neighbours have read.
    Red when a state is a neighbour's, or stays behind a text that has gone."""
    rng = random.Random(architecture)
    requests = requests_of(rng, 8)
    decoder = Decoder(target(architecture), drafting(architecture, recycle()))
    texts, cut, most = play_together(decoder, requests, rng)
    alone = Decoder(target(architecture))
    for request in requests:
        expected = token_ids(run(alone, request, "off")[0])
        got = texts[request.request_id]
        assert got == (expected[: len(got)] if request.request_id in cut else expected), request
    assert most == NUM_SEATS


def chat(rng: random.Random, decoder: Decoder) -> list[tuple[int, int, int]]:
    """Ten turns that grow: of each what it had in common with the last, and what was cached."""
    told: list[tuple[int, int, int]] = []
    text: list[int] = []
    for _ in range(10):
        text += [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(1, 40))]
        params = SamplingParams(temperature=0.0)
        request = GenerateRequest("r", tuple(text), 8, params, ignore_eos=True)
        steps, _ = run(decoder, request)
        fresh = Decoder(make_model("qwen3_5_text"))
        assert token_ids(steps) == token_ids(run(fresh, request, "off")[0])
        known = told[-1][2] if told else 0
        told.append((known, steps[0].num_cached_tokens, len(text) + 8))
        text += token_ids(steps)
    return told


def test_a_growing_chat_reads_only_what_is_new() -> None:
    """Red when a state is thrown away at the end of a reply, or a turn is told too many tokens."""
    decoder = Decoder(make_model("qwen3_5_text"), AdversarialDrafter(1, 8, VOCAB_SIZE))
    for known, cached, _ in chat(random.Random(3), decoder):
        assert cached == max(0, known - 1)


def test_a_prompt_that_comes_again_after_another_is_read_from_its_last_point() -> None:
    """A, B, A: what both begin with is kept, as far as there is a point in it."""
    model = make_model("lfm2")
    decoder, rng = Decoder(model), random.Random(5)
    common = [rng.randrange(VOCAB_SIZE) for _ in range(50)]
    prompts = [[*common, *(rng.randrange(VOCAB_SIZE) for _ in range(30))] for _ in range(2)]
    cached = []
    for number in (0, 1, 0):
        request = GenerateRequest("r", tuple(prompts[number]), 8, ignore_eos=True)
        request = replace(request, sampling=SamplingParams(temperature=0.0))
        steps, _ = run(decoder, request)
        cached.append(steps[0].num_cached_tokens)
        assert token_ids(steps) == token_ids(run(Decoder(make_model("lfm2")), request, "off")[0])
    assert cached == [0, 48, 48]


def test_what_a_busy_neighbour_knows_is_copied_with_its_state() -> None:
    """Red when rows are copied and the state is not, or rows beyond the neighbour's points are."""
    decoder = Decoder(make_model("qwen3_next", num_seats=2, max_model_len=256))
    long = tuple(range(1, 61))
    params = SamplingParams(temperature=0.0)
    decoder.add(GenerateRequest("a", long, 40, params, ignore_eos=True))
    events = [event for _ in range(8) for event in decoder.step()]
    follower = GenerateRequest("b", (*long, 9), 20, params, ignore_eos=True)
    decoder.add(follower)
    while decoder.is_busy:
        events += decoder.step()
    steps = [event for event in events if event.request_id == "b" and hasattr(event, "tokens")]
    assert steps[0].num_cached_tokens == 48
    fresh = Decoder(make_model("qwen3_next", max_model_len=256))
    assert token_ids(steps) == token_ids(run(fresh, follower, "off")[0])  # type: ignore[arg-type]


def test_trees_that_outgrow_the_rows_beside_states_are_refused(tmp_path: Path) -> None:
    """Red when a text's rows are written over a neighbour's, or an engine dies of a wide tree."""
    folder = str(save_checkpoint(tmp_path, "lfm2"))
    for stage in (
        NgramStageConfig(budget=256),
        ModelStageConfig(folder + "/", budget=16, passes=8, width=16),
    ):
        config = EngineConfig(folder, (stage,), device="cpu", compile="never", max_running=1)
        with pytest.raises(ConfigError, match="fewer than 256: lower the budget"):
            Engine.load(config)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_a_tree_may_fill_all_rows_behind_a_text(architecture: str) -> None:
    """With tokens that come with it, beside a neighbour. Red when rows lie beyond their seat's."""
    rng, model = random.Random(7), make_model(architecture, num_seats=2)
    texts = [Tokens([rng.randrange(VOCAB_SIZE) for _ in range(50)], seat) for seat in range(2)]
    neighbour = TokenTree(texts[1].tokens[-1])
    expected = model.score(texts[1:], neighbour)
    model.strips.rollback()
    tree = TokenTree(texts[0].tokens[-1])
    while len(tree) < 256:
        tree.add(rng.randrange(len(tree)), rng.randrange(VOCAB_SIZE))
    logits = model.score(texts[:1], tree)
    assert torch.allclose(model.score(texts[1:], neighbour), expected, atol=1e-4)
    for node in (0, 1, 100, 255):
        path = [*texts[0].tokens, *tree.path_tokens(node)]
        fresh = make_model(architecture).score([Tokens(path)], TokenTree(path[-1]))
        assert torch.allclose(logits[node], fresh[0], atol=2e-5 * float(fresh.abs().max()))
