"""The loop: exact ends, log-probabilities, origins, counts, cancelling, bad requests."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.decoder import Decoder
from engine.drafting.stage import NoStage
from engine.errors import EngineError, InvalidRequestError
from engine.request import TARGET, Finished, GenerateRequest, Output, SamplingParams
from engine.text import Text
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import make_model
from tests.engine.setups import (
    STAGE_LISTS,
    model_stage,
    ngram,
    random_request,
    run,
    target_model,
    token_ids,
)
from tests.fakes import OracleDrafter

PROMPT = (5, 9, 33)
GREEDY = SamplingParams(temperature=0.0)
LONG = GenerateRequest("r", PROMPT, max_tokens=60, sampling=GREEDY, ignore_eos=True)


def plain_text(request: GenerateRequest = LONG) -> list[int]:
    return token_ids(run(Decoder(target_model()), request, "off")[0])


def oracle(budget: int, request: GenerateRequest = LONG) -> Decoder:
    """A decoder whose drafter is always right, so that whole blocks are accepted."""
    text = [*request.prompt, *plain_text(request)]
    return Decoder(target_model(), OracleDrafter(text, budget))


def test_plain_decoding_is_what_transformers_generates() -> None:
    network = target_model().network
    network.set_attn_implementation("eager")
    expected = network.generate(
        torch.tensor([PROMPT]), max_new_tokens=60, min_new_tokens=60, do_sample=False
    )
    network.set_attn_implementation("stagetree")
    # generate forbids the EOS before the last token; ours is asked to ignore it.
    ours = plain_text()
    end = ours.index(2) if 2 in ours else len(ours)
    assert ours[:end] == expected[0, len(PROMPT) :].tolist()[:end]
    assert end > 10


def test_no_stage_is_plain_decoding_in_the_same_loop() -> None:
    steps, finished = run(Decoder(target_model(), NoStage()), LONG, "always")
    assert token_ids(steps) == plain_text()
    assert finished.stats.num_steps == 60
    assert finished.stats.mean_acceptance_length == 1.0
    assert finished.stats.stages == {}


@pytest.mark.parametrize("budget", [1, 3, 7])
@pytest.mark.parametrize("max_tokens", [1, 2, 5, 8, 9, 10])
def test_max_tokens_is_exact_wherever_it_falls_in_a_block(budget: int, max_tokens: int) -> None:
    request = replace(LONG, max_tokens=max_tokens)
    steps, finished = run(oracle(budget), request)
    assert token_ids(steps) == plain_text()[:max_tokens]
    assert finished.reason == "length"
    assert finished.stop_token_id is None
    assert len(steps) == 1 + -(-(max_tokens - 1) // (budget + 1))


@pytest.mark.parametrize("place", range(12))
def test_a_stop_token_ends_the_text_wherever_it_falls_in_a_block(place: int) -> None:
    """Ids, log-probabilities and the counts of the reply end at the same token."""
    text = plain_text()
    request = replace(LONG, stop_token_ids=(text[place],), num_logprobs=2)
    steps, finished = run(oracle(5), request)
    expected = text[: text.index(text[place]) + 1]
    assert token_ids(steps) == expected
    assert finished.reason == "stop"
    assert finished.stop_token_id == text[place]
    assert all(token.logprob is not None for step in steps for token in step.tokens)


@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_end_is_the_same_with_any_drafter_at_any_temperature(seed: int) -> None:
    request = random_request(random.Random(seed))
    plain = run(Decoder(target_model()), request, "off")
    for budget in (2, 6):
        steps, finished = run(oracle(budget, request), request)
        assert token_ids(steps) == token_ids(plain[0])
        assert (finished.reason, finished.stop_token_id) == (
            plain[1].reason,
            plain[1].stop_token_id,
        )


def test_eos_stops_unless_ignored() -> None:
    text = plain_text()
    model = make_model(hidden_size=48, eos_token_id=text[6])
    steps, finished = run(Decoder(model), replace(LONG, ignore_eos=False))
    assert token_ids(steps) == text[: text.index(text[6]) + 1]
    assert (finished.reason, finished.stop_token_id) == ("stop", text[6])
    assert token_ids(run(Decoder(model), LONG)[0]) == text


def test_nothing_is_proposed_below_an_end_or_beyond_the_last_useful_depth() -> None:
    text = plain_text()
    place = next(i for i in range(2, 60) if text[i] not in text[:i])
    request = replace(LONG, stop_token_ids=(text[place],))
    decoder = oracle(50)
    assert run(decoder, request)[0][1].stats.num_draft_tokens == place
    assert run(decoder, replace(LONG, max_tokens=8))[0][1].stats.num_draft_tokens == 6


def test_logprobs_are_the_targets_own_and_unfiltered() -> None:
    sampling = SamplingParams(temperature=1.3, top_k=3, seed=4)
    request = replace(LONG, max_tokens=20, sampling=sampling, num_logprobs=5)
    drafter = model_stage(ngram(), "draft")
    steps, _ = run(Decoder(target_model(), drafter), request)
    tokens = [token for step in steps for token in step.tokens]
    model = make_model(hidden_size=48)
    for place, token in enumerate(tokens):
        text = [*PROMPT, *(t.token_id for t in tokens[:place])]
        Alone(model).reset(text)
        expected = Alone(model).score(text, TokenTree(text[-1]))[0].log_softmax(-1)
        assert token.logprob == pytest.approx(expected[token.token_id].item(), abs=1e-4)
        best = expected.topk(5)
        assert [token_id for token_id, _ in token.top_logprobs] == best.indices.tolist()
        assert [value for _, value in token.top_logprobs] == pytest.approx(
            best.values.tolist(), abs=1e-4
        )


def test_counts_and_origins_tell_what_every_stage_contributed() -> None:
    decoder = Decoder(target_model(), model_stage(ngram(), "draft"))
    steps, finished = run(decoder, LONG)
    stats = finished.stats
    assert stats.num_steps == len(steps) == sum(stats.acceptance_histogram)
    emitted = sum(len(step.tokens) for step in steps)
    assert emitted == 60
    origins = [token.origin for step in steps for token in step.tokens]
    for name in ("draft", "ngram"):
        stage = stats.stages[name]
        assert stage.num_proposed >= stage.num_accepted >= origins.count(name) > 0
        assert stage.num_passes > 0
        assert stage.milliseconds > 0
    assert origins.count(TARGET) in (stats.num_steps, stats.num_steps - 1)
    proposed = sum(stage.num_proposed for stage in stats.stages.values())
    assert proposed == stats.num_draft_tokens
    assert 0 < stats.stages["ngram"].num_confirmed < stats.stages["ngram"].num_guesses
    assert stats.mean_acceptance_length == pytest.approx(
        1 + stats.num_accepted_drafts / stats.num_steps
    )


def test_the_first_step_tells_how_much_of_the_prompt_was_still_cached() -> None:
    decoder = Decoder(make_model(hidden_size=48), model_stage(ngram(), "draft"))
    prompt = tuple(range(3, 40))
    first = run(decoder, replace(LONG, prompt=prompt, max_tokens=5))[0]
    again = run(decoder, replace(LONG, prompt=(*prompt[:20], 50, 51), max_tokens=5))[0]
    assert [step.num_cached_tokens for step in first] == [0] * len(first)
    assert [step.num_cached_tokens for step in again] == [20] + [0] * (len(again) - 1)


def test_the_first_token_is_sent_before_anything_is_drafted() -> None:
    drafter = model_stage(NoStage(), "draft")
    steps = Decoder(target_model(), drafter).generate(LONG)
    first = next(steps)
    assert isinstance(first, Output)
    assert first.stats.num_nodes == 1
    assert drafter._model.num_passes == 0


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_cancelling_takes_effect_within_one_step(num_steps: int) -> None:
    decoder = Decoder(target_model())
    decoder.add(LONG)
    for _ in range(num_steps):
        assert [type(item) for item in decoder.step()] == [Output]
    decoder.cancel("someone else")
    decoder.cancel(LONG.request_id)
    (finished,) = decoder.step()
    assert isinstance(finished, Finished) and finished.reason == "cancelled"
    assert finished.stats.num_steps == num_steps
    assert not decoder.is_busy and decoder.step() == []


def test_cancelling_takes_effect_between_the_chunks_of_a_long_prompt() -> None:
    model = make_model(hidden_size=48)
    decoder = Decoder(model)
    decoder.add(replace(LONG, prompt=tuple(i % 60 for i in range(200))))
    assert decoder.step() == decoder.step() == []
    decoder.cancel(LONG.request_id)
    assert [type(item) for item in decoder.step()] == [Finished]
    assert model.num_passes == 2


def test_of_five_hundred_that_are_cancelled_each_leaves_its_seat_within_a_step() -> None:
    """Red when a seat stands empty beside who waits, or an end is told later than the next step."""
    chance, num_seats = random.Random(3), 3
    decoder = Decoder(make_model(hidden_size=16, num_seats=num_seats))
    for number in range(500):
        prompt = tuple(chance.choices(range(3, 60), k=chance.randrange(1, 40)))
        decoder.add(replace(LONG, request_id=str(number), prompt=prompt, max_tokens=8))
    alive, num_cancelled = {str(number) for number in range(500)}, 0
    while alive:
        sitting = [text.request.request_id for text in (*decoder._seats.writing, *reading(decoder))]
        # Of those who sit, whether they are read or written, and of those who wait.
        gone = {name for name in sitting if chance.random() < 0.3}
        gone |= {name for name in chance.sample(sorted(alive), 1) if chance.random() < 0.3}
        for name in gone:
            decoder.cancel(name)
        alive -= gone
        ends = {item.request_id for item in decoder.step() if isinstance(item, Finished)}
        num_cancelled += len(gone)
        assert gone <= ends
        num_sitting = len(decoder._seats.writing) + len(reading(decoder)) + len(ends - gone)
        assert num_sitting == min(num_seats, len(alive))
        alive -= ends
    assert num_cancelled > 250 and not decoder.is_busy


def reading(decoder: Decoder) -> Sequence[Text]:
    """The texts that sit and whose prompts are being read."""
    return decoder._seats._reading


def test_who_stops_asking_for_a_text_ends_it() -> None:
    """Red when the next text is refused, or finds its cache in the middle of another."""
    decoder = Decoder(target_model())
    first = decoder.generate(LONG)
    next(first)
    with pytest.raises(EngineError, match="another request has not ended"):
        next(decoder.generate(replace(LONG, prompt=(1, 2))))
    first.close()
    other = run(decoder, replace(LONG, prompt=(1, 2)))[0]
    assert token_ids(other) == plain_text(replace(LONG, prompt=(1, 2)))


def test_requests_are_written_one_after_the_other_each_as_if_alone() -> None:
    """Red when one that waits is lost, told twice, or changes the one before it."""
    decoder = Decoder(make_model(hidden_size=48), model_stage(ngram(), "draft"))  # of one seat
    requests = [replace(LONG, request_id=str(i), prompt=(1, 2 + i)) for i in range(4)]
    for request in requests:
        decoder.add(request)
    decoder.cancel("2")
    with pytest.raises(InvalidRequestError, match="another request has the id '1'"):
        decoder.add(requests[1])
    told = []
    while decoder.is_busy:
        told += decoder.step()
    ends = {item.request_id: item.reason for item in told if isinstance(item, Finished)}
    assert list(ends) == ["2", "0", "1", "3"]
    for request in requests:
        steps = [item for item in told if item.request_id == request.request_id][:-1]
        is_whole = request.request_id != "2"
        assert token_ids(steps) == (plain_text(request) if is_whole else [])


def test_a_draft_reads_a_long_prompt_a_chunk_a_step_and_the_text_goes_on_meanwhile() -> None:
    """Red when a text waits for all thirteen chunks, or cannot be cancelled between them."""
    drafter = model_stage(NoStage(), "draft")
    request = replace(LONG, prompt=tuple(i % 60 for i in range(200)), speculation="always")
    decoder = Decoder(make_model(hidden_size=48, chunk=1000), drafter)
    decoder.add(request)
    for num_read in range(4):
        (step,) = decoder.step()
        assert isinstance(step, Output) and len(step.tokens) == 1
        assert drafter._model.num_passes == num_read
    decoder.cancel(request.request_id)
    (finished,) = decoder.step()
    assert isinstance(finished, Finished) and finished.reason == "cancelled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ()}, "prompt is empty"),
        ({"prompt": (1, 64)}, "from 0 to 63"),
        ({"prompt": (1, -1)}, "from 0 to 63"),
        ({"max_tokens": -1}, "0 or more"),
        ({"max_tokens": 510}, "exceed the window of 512"),
        ({"num_logprobs": 65}, "from 0 to 64"),
        ({"sampling": SamplingParams(temperature=float("nan"))}, "temperature is nan"),
        ({"sampling": SamplingParams(temperature=-1.0)}, "temperature is -1"),
        ({"sampling": SamplingParams(min_p=1.5)}, "from 0 to 1"),
        ({"sampling": SamplingParams(top_k=-1)}, "top_k is -1"),
    ],
)
def test_a_request_that_cannot_run_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        run(Decoder(target_model()), replace(LONG, **change))  # type: ignore[arg-type]


def test_a_text_that_fills_the_window_is_decoded_to_its_end() -> None:
    request = replace(LONG, max_tokens=512 - len(PROMPT))
    decoder = Decoder(target_model(), model_stage(ngram(), "draft"))
    assert token_ids(run(decoder, request)[0]) == plain_text(request)


def test_measuring_leaves_no_trace_but_the_costs() -> None:
    """Every network is timed; the text afterwards and its counts are as if nothing had been run."""
    decoder = Decoder(target_model(), model_stage(ngram(), "draft"))
    decoder.measure(seconds=0.01)
    assert all(decoder.economy.costs().curve(name).is_known for name in ("target", "draft"))
    steps, _ = run(decoder, replace(LONG, speculation="auto"))
    assert token_ids(steps) == plain_text()
    assert steps[0].stats.stages == ()


@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_auto_writes_the_text_of_plain_decoding(stages: str) -> None:
    """Whatever the economy decides, before its costs are known and after."""
    rng = random.Random(stages)
    decoder = Decoder(target_model(), STAGE_LISTS[stages](24))
    for case in range(6):
        if case == 3:
            decoder.measure(seconds=0.01)
        request = random_request(rng)
        assert token_ids(run(decoder, request, "auto")[0]) == token_ids(
            run(decoder, request, "off")[0]
        )
