"""Constrained texts: what they may be, where they end, and that speculation never changes one."""

import json
import random
from collections import defaultdict
from dataclasses import replace

import pytest

from engine.decoder import Decoder
from engine.errors import EngineError, InvalidRequestError
from engine.grammar import Matcher
from engine.request import GRAMMAR, Constraint, GenerateRequest, Output, SamplingParams
from tests.checkpoints import VOCAB_SIZE, make_model
from tests.engine.constraints import (
    EOS,
    TOKENS,
    grammars,
    random_constraint,
    schema_constraint,
    spelled,
    with_forced,
)
from tests.engine.sampling_params import random_edits, random_filters
from tests.engine.setups import (
    NUM_SEATS,
    STAGE_LISTS,
    in_float32,
    random_request,
    run,
    target_model,
    token_ids,
)
from tests.schemas import keeps, random_schema

CASES_PER_LIST = 6


def request_of(constraint: Constraint, **changes: object) -> GenerateRequest:
    """A greedy request of a short prompt."""
    plain = GenerateRequest("r", (5, 9), 64, SamplingParams(0.0), constraint=constraint)
    return replace(plain, **changes)  # type: ignore[arg-type]


def decoder_of(stages: str = "", budget: int = 16) -> Decoder:
    """The one target with a list of stages, or with what a grammar leaves alone."""
    from engine.drafting.stage import NoStage

    below = STAGE_LISTS[stages](budget) if stages else NoStage()
    return Decoder(target_model(), with_forced(below), grammars=grammars())


def random_constrained(rng: random.Random) -> GenerateRequest:
    """Any request, under any constraint."""
    request = random_request(rng, 40)
    params = SamplingParams(**random_filters(rng))  # type: ignore[arg-type]
    if rng.random() < 0.4:
        edits = random_edits(rng, VOCAB_SIZE, request.prompt)
        params = replace(params, **edits)
        params = replace(params, min_tokens=min(params.min_tokens, request.max_tokens))
    return replace(request, sampling=params, constraint=random_constraint(rng))


@in_float32
@pytest.mark.parametrize("stages", ["", *STAGE_LISTS])
def test_the_text_is_the_same_with_and_without_speculation(stages: str) -> None:
    """And drafts were accepted, of the grammar's own too; red when a mask is of another path."""
    rng = random.Random(f"constrained {stages}")
    origins: set[str] = set()
    for _ in range(CASES_PER_LIST):
        request = random_constrained(rng)
        plain_steps, plain = run(decoder_of(), request, "off")
        steps, finished = run(decoder_of(stages, rng.randrange(1, 65)), request, "always")
        assert token_ids(plain_steps) == token_ids(steps), request
        assert plain.reason == finished.reason
        assert plain.stats.num_draft_tokens == 0
        origins |= {token.origin for step in steps for token in step.tokens}
    assert len(origins) > 1 and (GRAMMAR in origins or "adversary" in stages)


@in_float32
@pytest.mark.parametrize("stages", ["", "draft over ngram", "head over draft over ngram"])
def test_texts_in_company_are_what_they_are_alone(stages: str) -> None:
    """Constrained and free ones in the same steps: red when one is masked as another is."""
    rng = random.Random(f"company {stages}")
    requests = [
        replace(
            random_constrained(rng) if rng.random() < 0.7 else random_request(rng),
            request_id=str(number),
            speculation=rng.choice(["off", "auto", "always"]),
        )
        for number in range(12)
    ]
    decoder, texts, most = decoder_of(stages), defaultdict(list), 0
    coming = list(requests)
    while coming or decoder.is_busy:
        if coming and rng.random() < 0.5:
            decoder.add(coming.pop())
        for event in decoder.step():
            if isinstance(event, Output):
                texts[event.request_id] += [token.token_id for token in event.tokens]
                most = max(most, event.stats.num_texts)
    assert most == NUM_SEATS
    for request in requests:
        assert texts[request.request_id] == token_ids(run(decoder_of(), request, "off")[0])


def assert_valid(number: int) -> None:
    """A random bounded schema is kept, and a text under it ends by itself."""
    rng = random.Random(f"schema {number}")
    schema = random_schema(rng)
    temperature = rng.choice([0.0, 1.0, 2.0])
    sampling = SamplingParams(temperature, seed=number)
    request = request_of(schema_constraint(schema), max_tokens=400, sampling=sampling)
    steps, finished = run(decoder_of(), request, rng.choice(["off", "always"]))
    ids = token_ids(steps)
    assert finished.reason == "stop", (schema, spelled(ids))
    assert EOS not in ids[:-1]
    assert keeps(json.loads(spelled(ids)), schema), (schema, spelled(ids))


@pytest.mark.parametrize("number", range(50))
def test_a_text_keeps_a_random_bounded_schema_and_ends(number: int) -> None:
    """Red when white space, an end or a special token is allowed where it must not be."""
    assert_valid(number)


@pytest.mark.slow
def test_a_thousand_random_bounded_schemas_are_kept() -> None:
    """Every one of them."""
    for number in range(50, 1050):
        assert_valid(number)


KNOWN = {
    "type": "object",
    "properties": {"unit price": {"type": "boolean"}, "name": {"enum": ["age", "tag"]}},
    "required": ["unit price", "name"],
}


def test_what_is_certain_needs_no_step_of_its_own() -> None:
    """Red when forced tokens are not drafted, without any stage: the steps are a third."""
    request = request_of(schema_constraint(KNOWN))
    plain, _ = run(decoder_of(), request, "off")
    steps, finished = run(decoder_of(), request, "always")
    assert token_ids(plain) == token_ids(steps)
    assert len(plain) >= 3 * len(steps)
    forced = finished.stats.stages[GRAMMAR]
    assert forced.num_accepted == forced.num_proposed > 0


def test_a_certain_string_is_spelled_in_its_longest_tokens() -> None:
    """Red when the spelling of what is certain is left to chance: "na", "me" for "name"."""
    request = request_of(schema_constraint({"const": "name"}), sampling=SamplingParams(2.0, seed=3))
    steps, _ = run(decoder_of(), request)
    assert [TOKENS[token] for token in token_ids(steps)] == ['"', "name", '"']


def test_nothing_is_forced_where_a_token_goes_on_beyond_what_is_certain() -> None:
    """After `a` comes `b` or `c`: red when `a` is forced and `ab` never tried, or `na` is not."""
    for regex, only in (("a(b|c)", None), ("na(b|c)", "na"), ("n(a|i)", "n")):
        matcher = grammars().matcher(Constraint("regex", regex), frozenset([EOS]), 0)
        [start] = matcher.following((), [()])
        expected = None if only in (None, "n") else TOKENS.index(only)
        assert start.only == expected, regex


def test_the_end_comes_only_where_the_grammar_may_end_and_then_surely() -> None:
    """Without an end of text to write too; a longer regular expression is cut, and says so."""
    regex = Constraint("regex", "ab|abe")
    steps, finished = run(decoder_of(), request_of(regex))
    assert finished.reason == "stop"
    assert spelled([i for i in token_ids(steps) if i != EOS]) in ("ab", "abe")
    steps, finished = run(decoder_of(), request_of(Constraint("regex", "abe"), ignore_eos=True))
    assert (spelled(token_ids(steps)), finished.reason) == ("abe", "stop")
    assert finished.stop_token_id is None
    endless = request_of(Constraint("regex", "a+"), ignore_eos=True, max_tokens=9)
    steps, finished = run(decoder_of(), endless)
    assert (spelled(token_ids(steps)), finished.reason) == ("a" * 9, "length")


def test_bans_give_way_to_a_grammar_that_leaves_nothing_else() -> None:
    """Red when minus infinity is all that is left: any token might be chosen then."""
    banned = [TOKENS.index(text) for text in ("a", "ab")]
    sampling = SamplingParams(0.0, bad_words=tuple((token,) for token in banned))
    steps, finished = run(decoder_of(), request_of(Constraint("regex", "abe"), sampling=sampling))
    assert (spelled(token_ids(steps)), finished.reason) == ("abe", "stop")
    allowed = SamplingParams(1.0, allowed_token_ids=(TOKENS.index("x"),), min_tokens=30)
    steps, finished = run(decoder_of(), request_of(Constraint("regex", "abe"), sampling=allowed))
    assert (spelled(token_ids(steps)), finished.reason) == ("abe", "stop")


def test_a_stop_token_that_is_text_ends_a_constrained_text() -> None:
    """It is no end to the grammar, in which it may come anywhere."""
    request = request_of(schema_constraint(KNOWN), stop_token_ids=(TOKENS.index("price"),))
    steps, finished = run(decoder_of(), request)
    assert spelled(token_ids(steps)) == '{"unit price'
    assert finished.stop_token_id == TOKENS.index("price")


@in_float32
def test_a_mask_of_another_place_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof above sees a matcher that forgets the path."""
    original = Matcher.following

    def following(self: Matcher, tokens: list[int], paths: list[list[int]]) -> object:
        return original(self, tokens, [path[:-1] if len(path) > 2 else path for path in paths])

    monkeypatch.setattr(Matcher, "following", following)
    with pytest.raises((AssertionError, EngineError)):
        for stages in STAGE_LISTS:
            test_the_text_is_the_same_with_and_without_speculation(stages)


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        (Constraint("json_schema", "{"), "no JSON"),
        (Constraint("json_schema", "[]"), "must be an object"),
        (schema_constraint({"type": "strange"}), "cannot be compiled"),
        (schema_constraint({"type": "array", "uniqueItems": True}), "'uniqueItems' cannot be"),
        (schema_constraint({"$ref": "#/nowhere"}), "cannot be compiled"),
        (Constraint("regex", "(a"), "cannot be compiled"),
        (Constraint("regex", "z"), "no text that this model can write"),
        (Constraint("choice", "[]"), "list of strings"),
        (Constraint("choice", '["a", 1]'), "list of strings"),
        (Constraint("grammar", 'start ::= "a"'), "cannot be compiled"),
        (Constraint("structural_tag", "{}"), "format"),
        (Constraint("regex", "a" * 70000), "65536 are the most"),
        (Constraint("regex", "(" * 65 + ")" * 65), "64 deep"),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_refused(constraint: Constraint, told: str) -> None:
    """Before anything is written, and again without looking at it again."""
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=told):
            decoder_of().add(request_of(constraint))


def test_an_engine_without_a_tokenizer_says_that_constraints_need_one() -> None:
    with pytest.raises(InvalidRequestError, match="tokenizer"):
        Decoder(make_model()).add(request_of(Constraint("regex", "a")))
