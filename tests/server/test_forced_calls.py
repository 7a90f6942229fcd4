"""Calls that a model is forced to make, in every style: what may be written is what is read."""

import json
import random
from functools import cache
from typing import Any

import pytest

from engine.grammar import Grammars, Vocabulary
from engine.request import Constraint
from server.message import STYLES, Format, ReplyReader, Thinking, calls_format
from server.translate.constraints import after_reasoning, mark_of, tagged
from tests.schemas import keeps, random_object
from tests.server.fakes import EOS, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()


@cache
def grammars() -> Grammars:
    """Of the tokenizer that tests of the server have."""
    from xgrammar import VocabType

    inner = TOKENIZER.inner
    names = [inner.id_to_token(token) for token in range(inner.get_vocab_size())]
    return Grammars(lambda: Vocabulary(names, [EOS], VocabType.BYTE_LEVEL))


def written(form: Format, rng: random.Random, most: int = 4000) -> str:
    """A random text of a format: any token that may follow, and the end as soon as it may come."""
    constraint: Constraint = tagged(form)
    matcher = grammars().matcher(constraint, frozenset([EOS]), 0)
    ids: list[int] = []
    while len(ids) < most:
        [there] = matcher.following(ids, [()])
        allowed = [t for t in range(len(TOKENIZER.texts)) if there.words[t >> 5] >> (t & 31) & 1]
        if there.end is not None or EOS in allowed:
            return TOKENIZER.decode_all(ids)
        # Letters alone: a random text of any bytes is seldom UTF-8.
        plain = [t for t in allowed if TOKENIZER.texts[t].isascii()]
        ids.append(rng.choice(plain or allowed))
    raise AssertionError(TOKENIZER.decode_all(ids))


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("has_mark", [True, False])
def test_what_is_forced_is_read_as_calls_of_these_tools(style: str, has_mark: bool) -> None:
    """Red when a style is written in another way than it is read, or a schema is not kept."""
    rng = random.Random(style)
    for number in range(6):
        tools = {"weather": random_object(rng, 1), "get-time": {}}
        if style == "qwen3coder":  # whose tags have no blanks in names
            tools = json.loads(json.dumps(tools).replace("unit price", "unit"))
        form = calls_format(style, tools, lambda text: mark_of(TOKENIZER, text), True, has_mark)
        text = written(form, rng)
        message = ReplyReader(style=STYLES[style], tools=tools).read(text, True)
        assert message.calls and not message.content, text
        for call in message.calls:
            arguments = json.loads(call.text)
            assert keeps(arguments, tools[call.name] or {"const": {}}), (number, text)


@pytest.mark.parametrize("style", ["mistral", "deepseek", "hermes"])
def test_names_that_may_be_sent_are_read_back(style: str) -> None:
    """Red when a tool of a namespace is called and told as content, with the marks in it."""
    tools = {"ns/list:files": {"type": "object", "properties": {}}}
    form = calls_format(style, tools, lambda text: mark_of(TOKENIZER, text), False, True)
    text = written(form, random.Random(1))
    [call] = ReplyReader(style=STYLES[style], tools=tools).read(text, True).calls
    assert (call.name, call.text) == ("ns/list:files", "{}")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": None},
        {"properties": {"a": {"enum": 5}}, "required": None},
        {
            "properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
            "required": ["a"],
        },
    ],
    ids=str,
)
def test_schemas_that_say_little_are_no_failure(schema: dict[str, Any]) -> None:
    """Red when a tool without parameters is a 500, or what may be a number is told as any text."""
    tools = {"f": {"type": "object", **schema}}
    form = calls_format("qwen3coder", tools, lambda text: mark_of(TOKENIZER, text), False, True)
    text = written(form, random.Random(2))
    [call] = ReplyReader(style=STYLES["qwen3coder"], tools=tools).read(text, True).calls
    assert not isinstance(json.loads(call.text).get("a"), str) or "enum" in str(schema)


@pytest.mark.parametrize("is_thinking", [True, False])
def test_a_form_is_that_of_what_follows_reasoning(is_thinking: bool) -> None:
    """Red when reasoning has to be JSON, or may go on without an end, or is asked for twice."""
    thinking = Thinking("<think>", "</think>")
    content = {"type": "json_schema", "json_schema": {"const": "yes"}}
    prompt = "<think>" if is_thinking else "<assistant>"
    form = after_reasoning(content, thinking, prompt, is_thinking, TOKENIZER)
    begin = "" if is_thinking else "<think>"
    accepted = [f'{begin}Is it? "no"</think>\n\n"yes"', f'{begin}</think>"yes"']
    refused = [f"{begin}Is it?", f'{begin}a</think>no"yes"']
    (refused if is_thinking else accepted).append('"yes"')
    for text in (*accepted, *refused):
        assert _is_whole(form, text) == (text in accepted), text
    closed = after_reasoning(content, thinking, "<think></think>\n", False, TOKENIZER)
    assert closed == content


def _is_whole(form: Format, text: str) -> bool:
    """Whether a text, in the longest tokens that may come, is one that may end."""
    matcher = grammars().matcher(tagged(form), frozenset([EOS]), 0)
    ids: list[int] = []
    rest = text.encode()
    while True:
        [there] = matcher.following(ids, [()])
        allowed = [t for t in range(len(TOKENIZER.texts)) if there.words[t >> 5] >> (t & 31) & 1]
        if not rest:
            return there.end == "stop" or EOS in allowed
        spelling = {t: TOKENIZER.token_bytes(t) or b"" for t in allowed if t != EOS}
        fitting = [t for t, spelled in spelling.items() if spelled and rest.startswith(spelled)]
        if not fitting:
            return False
        ids.append(max(fitting, key=lambda token: len(spelling[token])))
        rest = rest[len(spelling[ids[-1]]) :]
