"""What a request predicts of its reply is proposed to that text alone, and changes none."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from engine.checks import check
from engine.decoder import Decoder
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import LookupSource, PredictionSource
from engine.errors import InvalidRequestError
from engine.request import PREDICTION, GenerateRequest, Output, SamplingParams
from tests.checkpoints import VOCAB_SIZE
from tests.engine.setups import (
    in_float32,
    model_stage,
    random_request,
    run,
    target_model,
    token_ids,
)
from tests.engine.steps import step_of, text_of


def predicting(budget: int = 8) -> ModelFreeDrafter:
    """A look-up stage, as it is built from a configuration."""
    return ModelFreeDrafter([PredictionSource(), LookupSource("ngram")], budget, 3)


def edited(rng: random.Random, reply: list[int]) -> tuple[int, ...]:
    """The reply with some tokens lost, changed or put in between."""
    told = list(reply)
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(told) + 1)
        told[place : place + rng.randrange(2)] = [rng.randrange(VOCAB_SIZE)]
    return tuple(told)


def test_its_beginning_follows_the_prompt() -> None:
    """Red when the first tokens of a reply have to be written before the look-up finds them."""
    text = text_of([5, 6, 7, 8], num_written=1)
    text.request = replace(text.request, prediction=(8, 9, 10, 11))
    step = step_of(text)
    nodes = predicting().grow(step, [0], 8)
    assert [step.tree.tokens[node] for node in nodes] == [9, 10, 11]
    assert {step.tree.origins[node] for node in nodes} == {PREDICTION}


def test_the_prompt_is_no_part_of_it() -> None:
    """Red when what a prompt repeats is counted as predicted."""
    text = text_of([1, 2, 3, 4, 1, 2, 3])
    text.request = replace(text.request, prediction=(9,))
    step = step_of(text)
    nodes = predicting().grow(step, [0], 8)
    origins = {step.tree.tokens[node]: step.tree.origins[node] for node in nodes}
    assert origins[9] == PREDICTION and origins[4] == "ngram"


@in_float32
@pytest.mark.parametrize("over_draft", [False, True])
def test_no_prediction_changes_a_text(over_draft: bool) -> None:
    """At any temperature; and some of it was accepted and some not, or it would prove nothing."""
    rng, origins, num_proposed = random.Random(5), Counter[str](), 0
    plain = Decoder(target_model())
    for _ in range(30):
        request = random_request(rng)
        reply = token_ids(run(plain, request, "off")[0])
        drafter = model_stage(predicting(), "draft") if over_draft else predicting()
        asked = replace(request, prediction=edited(rng, reply))
        steps, finished = run(Decoder(target_model(), drafter), asked)
        assert token_ids(steps) == reply
        origins.update(token.origin for step in steps for token in step.tokens)
        if PREDICTION in finished.stats.stages:
            num_proposed += finished.stats.stages[PREDICTION].num_proposed
    assert 50 < origins[PREDICTION] < num_proposed


def test_in_company_a_prediction_is_its_own_texts_alone() -> None:
    """Red when a neighbour, or who sits there next, is offered what another predicted."""
    decoder = Decoder(target_model(), predicting())
    sampling = SamplingParams(1.0, seed=3)
    request = GenerateRequest("a", (5, 6, 7), 24, sampling, ignore_eos=True, speculation="always")
    reply = tuple(token_ids(run(decoder, replace(request, cache_salt="first"))[0]))
    origins = Counter[tuple[str, bool]]()
    asked = replace(request, prediction=reply)
    for salt in "xyz":
        for request_id, each in (("with", asked), ("without", request)):
            decoder.add(replace(each, request_id=request_id, cache_salt=salt + request_id))
        while decoder.is_busy:
            for event in decoder.step():
                if isinstance(event, Output):
                    is_own = event.request_id == "with"
                    for token in event.tokens:
                        origins[token.origin, is_own] += 1
    assert origins[PREDICTION, True] > 50 and not origins[PREDICTION, False]


def test_a_source_forgets_the_prediction_of_the_text_before() -> None:
    """Red when it is kept by seat and not by text."""
    drafter = predicting()
    text = text_of([5, 6, 7])
    text.request = replace(text.request, prediction=(8, 9))
    assert drafter.grow(step_of(text), [0], 4)
    other = text_of([5, 6, 7])
    other.request = replace(other.request, prediction=(1,))
    step = step_of(other)
    assert [step.tree.tokens[node] for node in drafter.grow(step, [0], 4)] == [1]


@pytest.mark.parametrize("prediction", [(VOCAB_SIZE,), (-1,), (1,) * 101])
def test_a_prediction_that_cannot_be_is_refused(prediction: tuple[int, ...]) -> None:
    """Red when strange ids, or a text that no reply can be, reach the look-up."""
    request = GenerateRequest("r", (1,), 4, prediction=prediction)
    with pytest.raises(InvalidRequestError, match="prediction"):
        check(request, 100, VOCAB_SIZE)
