"""Between OpenAI's vocabulary and the engine's: seeds, indices, windows, figures."""

from dataclasses import fields
from typing import Any

import pytest

from engine import ContextLengthError, InvalidRequestError, Output, SamplingParams
from server.errors import BadRequestError, envelope
from server.plan import Plan
from server.protocol import CompletionRequest, SamplingFields
from server.record import RequestRecord
from server.seeds import choice_seed
from server.settings import Settings
from server.translate.completions import plan_completion
from server.translate.figures import metrics_of, usage_of
from server.translate.requests import Planner
from tests.server.fakes import EOS, WINDOW, FakeEngine, byte_level_tokenizer, step_stats

TOKENIZER = byte_level_tokenizer()


def plan(**body: Any) -> Plan:
    request = CompletionRequest.model_validate({"prompt": "hello", **body})
    settings = Settings(model="fake", max_sequences=300)
    return plan_completion(request, "id", Planner(FakeEngine.info, TOKENIZER, settings))


def test_a_prompt_may_have_any_of_four_shapes() -> None:
    hello, world = TOKENIZER.encode("hello"), TOKENIZER.encode("world")
    shapes: list[Any] = ["hello", ["hello", "world"], hello, [hello, world]]
    prompts = [[list(s.prompt) for s in plan(prompt=shape).sequences] for shape in shapes]
    assert prompts == [[hello], [hello, world], [hello], [hello, world]]


def test_an_empty_prompt_starts_from_the_models_own_start() -> None:
    assert plan(prompt="").sequences[0].prompt == (EOS,)
    assert plan(prompt=None).sequences[0].prompt == (EOS,)


def test_choices_of_one_prompt_stand_together_and_differ_by_seed() -> None:
    """Red when indices and seeds are dealt out in another order."""
    sequences = plan(prompt=["hello", "world"], n=3, seed=7).sequences
    seeds = [choice_seed(7, k) for k in range(3)]
    assert [s.sampling.seed for s in sequences] == seeds * 2
    assert seeds[0] == 7 and len(set(seeds)) == 3
    assert [list(s.prompt) for s in sequences[:3]] == [TOKENIZER.encode("hello")] * 3


def test_a_prompt_in_a_batch_equals_the_same_prompt_alone() -> None:
    """Red when a seed depends on a prompt's place in its batch."""
    together = plan(prompt=["hello", "world"], n=2, seed=7).sequences[2:]
    alone = plan(prompt="world", n=2, seed=7).sequences
    assert [(s.prompt, s.sampling) for s in together] == [(s.prompt, s.sampling) for s in alone]


def test_a_mixed_seed_fits_a_double_and_neighbouring_seeds_share_none() -> None:
    """Red when a JSON reader would round a seed, or two choices share one."""
    seeds = [choice_seed(seed, k) for seed in range(-20, 20) for k in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(-20 <= seed < 2**53 for seed in seeds)


def test_without_a_seed_a_random_one_is_drawn() -> None:
    assert plan().sequences[0].sampling.seed != plan().sequences[0].sampling.seed


def test_max_tokens_is_cut_to_what_the_window_leaves() -> None:
    assert plan(prompt=[5] * 250, max_tokens=100).sequences[0].max_tokens == WINDOW - 250
    assert plan().sequences[0].max_tokens == 16


def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthError, match=r"of 256 tokens .* window of 256"):
        plan(prompt=[5] * WINDOW)


def test_minus_one_keeps_every_token() -> None:
    assert plan(top_k=-1).sequences[0].sampling.top_k == 0


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [1, 320]},
        {"prompt": [[-1]]},
        {"stop_token_ids": [320]},
        {"logprobs": 21},
        {"prompt": ["a"] * 200, "n": 2},
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_or_the_settings_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises((BadRequestError, InvalidRequestError)) as caught:
        plan(**body)
    assert envelope(caught.value).error.param in body


def test_a_model_without_a_start_token_refuses_an_empty_prompt() -> None:
    request = CompletionRequest(prompt="")
    info = FakeEngine.info.__class__("m", 9, 9, (), "float32", "cpu", 1, ())
    with pytest.raises(InvalidRequestError, match="empty"):
        plan_completion(request, "id", Planner(info, TOKENIZER, Settings(model="m")))


def test_figures_of_two_choices_are_folded() -> None:
    """Red when a second choice's wait is counted as decoding."""
    record = RequestRecord(num_prompt_tokens=5, arrived_at=10.0)
    record.turn_at = 11.0
    for first, second in ((12.0, 14.0), (15.0, 15.5)):
        choice = record.begin_choice()
        record.add_step(choice, Output("id", (), step_stats(3), num_cached_tokens=4), 3, first)
        record.add_step(choice, Output("id", (), step_stats(2), num_cached_tokens=4), 2, second)
    usage, metrics = usage_of(record, record.num_completion_tokens), metrics_of(record)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 10, 15)
    assert usage.prompt_tokens_details.cached_tokens == 8
    assert (metrics.queue_time_ms, metrics.time_to_first_token_ms) == (1000.0, 2000.0)
    assert metrics.generation_time_ms == 4500.0
    assert metrics.mean_itl_ms == pytest.approx(2500.0 / 8)
    assert metrics.tokens_per_second == pytest.approx(10 / 4.5)
    assert metrics.speculative_decoding.acceptance_histogram == [0, 2, 2]
    assert metrics.speculative_decoding.mean_acceptance_length == 2.5
    draft, ngram = metrics.stages
    assert (draft.name, draft.proposed, draft.accepted, draft.passes) == ("draft", 20, 6, 8)
    assert (ngram.guesses, ngram.confirmed, ngram.passes) == (16, 12, 24)


def test_a_sampling_field_has_one_name_from_the_wire_to_the_engine() -> None:
    """Red when a field is added to one of the two and not to the other, or is lost on the way."""
    names = {field.name for field in fields(SamplingParams)}
    assert names == set(SamplingFields.model_fields)
    given = ("logit_bias", "dry_sequence_breakers", "bad_words", "allowed_token_ids")
    asked = {name: 0.5 for name in names if name not in given}
    asked |= {"dry_base": 1.5, "top_k": 5, "seed": 5, "min_tokens": 5}
    asked |= {"dry_allowed_length": 5, "dry_penalty_last_n": 5}
    ids = {"logit_bias": {"5": -1.5}, "allowed_token_ids": [5, 6]}
    found = plan(**asked, **ids, bad_words=["hello"], dry_sequence_breakers=[]).sequences[0]
    hello = tuple(TOKENIZER.encode("hello"))
    assert found.sampling == SamplingParams(
        **asked,  # type: ignore[arg-type]
        logit_bias=((5, -1.5),),
        allowed_token_ids=(5, 6),
        bad_words=(hello,),
    )


def test_a_bad_word_is_read_alone_and_after_a_space() -> None:
    """Red when only one of the two is kept from the text, or a word of more tokens is another."""
    alone, after = (tuple(TOKENIZER.encode(text)) for text in ("world", " world"))
    letter = tuple(TOKENIZER.encode("a"))
    assert len(alone) == len(after) == 1 and len(TOKENIZER.encode(" a")) == 2
    words = plan(bad_words=["world", "a", " world"]).sequences[0].sampling.bad_words
    assert words == (alone, after, letter)
    assert plan(bad_words="").sequences[0].sampling.bad_words == ()


def test_every_token_that_holds_a_breaker_breaks() -> None:
    params = plan(dry_multiplier=1, dry_sequence_breakers=["\n", "o"]).sequences[0].sampling
    texts = [TOKENIZER.token_text(token) for token in params.dry_sequence_breakers]
    assert texts and all("\n" in text or "o" in text for text in texts)
    assert {*TOKENIZER.encode("\n"), *TOKENIZER.encode("o")} <= {*params.dry_sequence_breakers}
    assert plan().sequences[0].sampling.dry_sequence_breakers == ()
