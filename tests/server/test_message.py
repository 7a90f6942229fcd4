"""Reading a reply as a message: what stands where, and that nothing told is ever taken back."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.message import (
    STYLES,
    Part,
    ReplyReader,
    Telling,
    Thinking,
    detect_style,
    detect_thinking,
)
from server.message import Message as Read
from server.settings import Parser

THINK = Thinking("<think>", "</think>")
WEATHER = '{"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}'
ARGUMENTS = '{"city": "Oslo", "days": [1, 2]}'
SCHEMA = {"properties": {"days": {"type": "array"}, "city": {"type": "string"}, "x": {"type": "x"}}}


@dataclass(frozen=True)
class Call:
    """A call as chats tell it."""

    name: str
    arguments: str = ""


@dataclass(frozen=True)
class Message:
    """A message as chats tell it, whatever the order of its parts."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()

    @classmethod
    def of(cls, read: Read) -> "Message":
        calls = tuple(Call(call.name, call.text) for call in read.calls)
        return cls(read.content, read.reasoning, calls)


CALL = Call("weather", ARGUMENTS)
TIME = Call("time", "{}")


def reader(style: str | None = None, is_thinking: bool | None = None) -> ReplyReader:
    """Of this style, and of reasoning unless `is_thinking` is None."""
    return ReplyReader(
        thinking=None if is_thinking is None else THINK,
        is_thinking=bool(is_thinking),
        style=STYLES[style] if style else None,
        tools={"weather": SCHEMA, "time": {}},
    )


READINGS: list[tuple[str, str, Message]] = [
    ("hermes", "Hello <there>", Message("Hello <there>")),
    ("hermes", f"<tool_call>\n{WEATHER}\n</tool_call>", Message(calls=(CALL,))),
    (
        "hermes",
        f"Let me see.\n<tool_call>{WEATHER}</tool_call>",
        Message("Let me see.", "", (CALL,)),
    ),
    (
        "hermes",
        f'<tool_call>{WEATHER}</tool_call>\n<tool_call>{{"name": "time"}}</tool_call>',
        Message(calls=(CALL, TIME)),
    ),
    (
        "hermes",
        f"<tool_call>[{WEATHER}, {WEATHER}]</tool_call> Done.",
        Message("Done.", "", (CALL, CALL)),
    ),
    ("hermes", "<tool_call>\nnone\n</tool_call>", Message("<tool_call>\nnone\n</tool_call>")),
    ("hermes", '<tool_call>{"name": "x", "argu', Message('<tool_call>{"name": "x", "argu')),
    (
        "hermes",
        '<tool_call>{"name": "x", "arguments": {"a": "</tool',
        Message(calls=(Call("x", '{"a": "</tool'),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "x", "arguments": {"a": "</tool_call>"}}</tool_call>',
        Message(calls=(Call("x", '{"a": "</tool_call>"}'),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "x", "arguments": {"a": 1}</tool_call> so',
        Message("so", "", (Call("x", '{"a": 1}'),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "x", "arguments": {"a": 1</tool_call> so',
        Message("so", "", (Call("x", '{"a": 1'),)),
    ),
    (
        "hermes",
        r'<tool_call>{"arguments": "{\"a\": \"}\"}", "name": "x"}</tool_call>',
        Message(calls=(Call("x", '{"a": "}"}'),)),
    ),
    (
        "llama3",
        '{"name": "weather", "parameters": {"city": "Oslo"}}',
        Message(calls=(Call("weather", '{"city": "Oslo"}'),)),
    ),
    ("llama3", f"<|python_tag|>{WEATHER}; {WEATHER}", Message(calls=(CALL, CALL))),
    (
        "llama3",
        '{"name": "nobody", "parameters": {}}',
        Message('{"name": "nobody", "parameters": {}}'),
    ),
    (
        "llama3",
        '{"name": "time", "parameters": {}, "x": 2, "parameters": {"a": 1}}',
        Message(calls=(TIME,)),
    ),
    ("llama3", '{"city": "Oslo"}', Message('{"city": "Oslo"}')),
    ("llama3", f"See {WEATHER}", Message(f"See {WEATHER}")),
    ("granite", f"<|tool_call|>[{WEATHER}, {WEATHER}]", Message(calls=(CALL, CALL))),
    (
        "granite",
        f"So: <|tool_call|>[{WEATHER}]<|/tool_call|> Done.",
        Message("So:\nDone.", "", (CALL,)),
    ),
    ("granite", "<|tool_call|> none", Message("<|tool_call|> none")),
    ("mistral", f"[TOOL_CALLS][{WEATHER}]", Message(calls=(CALL,))),
    (
        "mistral",
        f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]time{{}}",
        Message(calls=(CALL, TIME)),
    ),
    (
        "mistral",
        f"So [TOOL_CALLS]weather[CALL_ID]ab12[ARGS]{ARGUMENTS}",
        Message("So", "", (CALL,)),
    ),
    (
        "deepseek",
        f"So<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        Message("So", "", (CALL, TIME)),
    ),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        f"{ARGUMENTS}\n```<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>",
        Message(calls=(CALL,)),
    ),
    ("deepseek", "<｜tool▁calls▁begin｜> none", Message("<｜tool▁calls▁begin｜> none")),
    ("mistral", "[TOOL_CALLS] are what I write", Message("[TOOL_CALLS] are what I write")),
    ("fenced", f"Well:\n```json\n{WEATHER}\n```\n", Message("Well:", "", (CALL,))),
    ("fenced", f"{WEATHER}", Message(calls=(CALL,))),
    ("fenced", '```json\n{"a": 1}\n```', Message('```json\n{"a": 1}\n```')),
    ("fenced", "```python\nprint(1)\n```\n", Message("```python\nprint(1)\n```\n")),
]


TAGGED = """<function=weather>
<parameter=city>
Oslo
</parameter>
<parameter=days>
[1, 2]
</parameter>
</function>"""
READINGS += [
    ("qwen3coder", f"Well.\n<tool_call>\n{TAGGED}\n</tool_call>", Message("Well.", "", (CALL,))),
    (
        "qwen3coder",
        f"<tool_call>{TAGGED}</tool_call>\n<tool_call>\n<function=time>\n</function>\n</tool_call>",
        Message(calls=(CALL, TIME)),
    ),
    (
        "qwen3coder",
        "<tool_call><function=f><parameter=x>1</parameter> so</function></tool_call>",
        Message("so</function></tool_call>", "", (Call("f", '{"x": "1"}'),)),
    ),
    (
        "qwen3coder",
        "<tool_call><function=weather><parameter=days>\na\nb\n</parameter></function></tool_call>",
        Message(calls=(Call("weather", '{"days": "a\\nb"}'),)),
    ),
    ("qwen3coder", "<tool_call>{}</tool_call>", Message("<tool_call>{}</tool_call>")),
    ("qwen3coder", "<tool_call><function=we", Message("<tool_call><function=we")),
]


@pytest.mark.parametrize(("style", "text", "message"), READINGS)
def test_calls_are_found_in_every_style(style: str, text: str, message: Message) -> None:
    """Red when a call is missed, or what is none is taken for one or lost."""
    whole = reader(style).read(text, True)
    assert Message.of(whole) == message
    for length in range(len(text)):
        assert begins(reader(style).read(text[:length], False), whole), text[:length]


@pytest.mark.parametrize(
    ("is_thinking", "text", "message"),
    [
        (False, "<think>\nWell\n</think>\n\nYes", Message("Yes", "Well")),
        (False, "Yes <think>no</think>", Message("Yes <think>no</think>")),
        (True, "Well</think>Yes", Message("Yes", "Well")),
        (True, "<think>Well</think>Yes", Message("Yes", "Well")),
        (True, "Well, cut", Message("", "Well, cut")),
        (False, "<thi", Message("<thi")),
        (False, "<think></think>Yes", Message("Yes")),
    ],
)
def test_reasoning_stands_apart(is_thinking: bool, text: str, message: Message) -> None:
    """Red when its marks are told, or the prompt's part in it is forgotten."""
    assert Message.of(reader(None, is_thinking).read(text, True)) == message


FRAGMENTS = [
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        TAGGED,
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
    ),
    *("<|tool_call|>", "<|/tool_call|>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>", "function"),
    *("<|python_tag|>", "```json", "```", "```tool_call", WEATHER, ARGUMENTS, '{"name": "time"}'),
    *('{"name": "weather", ', '"arguments": ', '"parameters": {"a": 1}', '"x": 2', '{"', "}", "]"),
    *(TAGGED, "<function=time>", "<parameter=days>", "</parameter>", "</function>", "<function="),
    *("[", ",", ";", ":", '"', "\\", "<", " ", "\n", "weather", "é", "null", "1", '"{}"'),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)
readers = st.builds(reader, st.sampled_from([None, *STYLES]), st.sampled_from([None, False, True]))


def begins(message: Read, more: Read) -> bool:
    """Whether the second message is the first one, or that and more."""
    before, after = message.parts, more.parts[: len(message.parts)]
    return len(before) == len(after) and all(
        (old.kind, old.name) == (new.kind, new.name)
        and new.text.startswith(old.text)
        and (new.text == old.text or number == len(before) - 1)
        for number, (old, new) in enumerate(zip(before, after, strict=True))
    )


def test_parts_stand_in_the_order_in_which_they_are_written() -> None:
    """Red when what is said after a call is told before it, or two texts around one are joined."""
    text = f"<think>Well</think>So\n<tool_call>{WEATHER}</tool_call> then <tool_call>{WEATHER}"
    kinds = ["reasoning", "content", "call", "content", "call"]
    parts = reader("hermes", False).read(text, True).parts
    assert [part.kind for part in parts] == kinds
    assert [part.text for part in parts] == ["Well", "So", ARGUMENTS, "then", ARGUMENTS]


@given(reader=readers, text=texts)
def test_what_a_text_has_told_stays_told(reader: ReplyReader, text: str) -> None:
    """Red when something is told before it is certain, whatever a model may write."""
    told = Read()
    for length in range(len(text) + 1):
        now = reader.read(text[:length], False)
        assert begins(told, now), text[:length]
        assert begins(now, reader.read(text[:length], True)), text[:length]
        told = now


@given(reader=readers, text=texts, cuts=st.lists(st.integers(0, 200)))
def test_pieces_add_up_to_the_message_however_a_text_is_cut(
    reader: ReplyReader, text: str, cuts: list[int]
) -> None:
    """Red when what a client adds up depends on how tokens came in blocks."""
    telling, parts = Telling(reader), list[Part]()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for number, (start, end) in enumerate(pairwise(places), start=2):
        for added in telling.push(text[start:end], number == len(places)):
            assert added.is_new == (added.number == len(parts))
            before = "" if added.is_new else parts.pop().text
            assert added.number == len(parts), "a part has grown that another has followed"
            parts.append(Part(added.part.kind, before + added.part.text, added.part.name))
            assert added.rank == sum(part.kind == added.part.kind for part in parts) - 1
    assert tuple(parts) == reader.read(text, True).parts == telling.told.parts


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(
    arguments=st.dictionaries(st.text(), values, max_size=3),
    indent=st.sampled_from([None, 1]),
    escapes=st.booleans(),
    shape=st.sampled_from(
        [
            ("hermes", "<tool_call>\n{}\n</tool_call>"),
            ("llama3", "{}"),
            ("granite", "<|tool_call|>[{}]<|/tool_call|>"),
            ("mistral", "[TOOL_CALLS][{}]"),
            ("fenced", "```json\n{}\n```"),
        ]
    ),
)
def test_any_arguments_are_read_as_they_were_written(
    arguments: Any, indent: Any, escapes: bool, shape: tuple[str, str]
) -> None:
    """Red when a bracket, a quote or a mark within a string is taken for the end of something."""
    style, frame = shape
    call = {"name": "time", "arguments": arguments}
    written = json.dumps(call, indent=indent, ensure_ascii=escapes)
    message = reader(style).read(frame.replace("{}", written), True)
    [found] = message.calls
    assert found.name == "time" and not message.content
    assert json.loads(found.text) == arguments


@pytest.mark.parametrize("value", [r'"\ud800"', r'["\udc00"]', "1e999", "-1e999"])
def test_a_value_that_no_client_can_read_stays_the_text_it_was(value: str) -> None:
    """Red when half a surrogate pair, or a number that JSON has not, is told as arguments."""
    text = f"<function=time>\n<parameter=x>{value}</parameter>\n</function>"
    schema = {"properties": {"x": {"type": "array"}}}
    one = ReplyReader(style=STYLES["qwen3coder"], tools={"time": schema})
    [call] = one.read(f"<tool_call>{text}</tool_call>", True).calls
    assert json.loads(call.text) == {"x": value}
    assert call.text.encode()


def test_half_a_surrogate_pair_is_no_name_and_no_arguments() -> None:
    """Red when a call is told that cannot be sent."""
    for call in (r'{"name": "\ud800"}', r'{"name": "x", "arguments": "{\ud800"}'):
        text = f"<tool_call>{call}</tool_call>"
        assert Message.of(reader("hermes").read(text, True)) == Message(text)


@pytest.mark.parametrize("part", ["[AAAA", "[A A ", "\n"])
def test_what_is_almost_a_name_is_read_once(part: str) -> None:
    """Red, by never ending, when every way to part a hostile text is tried."""
    text = f"[TOOL_CALLS]f{part * 20_000}!"
    assert Message.of(reader("mistral").read(text, True)) == Message(text)


LONG = 50_000


@pytest.mark.parametrize(
    ("style", "before", "after"),
    [
        (None, "", ""),
        ("hermes", "<think>", "</think>"),
        ("hermes", "<think></think>", ""),
        ("hermes", '<tool_call>{"name": "time", "arguments": {"a": "', '"}}</tool_call>'),
        ("llama3", '{"name": "time", "parameters": {"a": ["', '"]}}'),
        ("mistral", '[TOOL_CALLS]time[ARGS]{"a": "', '"}'),
        ("qwen3coder", "<tool_call><function=time><parameter=a>", "</parameter></function>"),
    ],
)
def test_a_long_text_is_read_once(style: str | None, before: str, after: str) -> None:
    """Red, by taking a minute, when what has been read is read again with every piece."""
    telling, told = Telling(reader(style, False)), [""]
    filling = "a {b}, " * (LONG // 7)
    telling.push(before, False)
    for character in filling:
        told += [added.part.text for added in telling.push(character, False)]
    told += [added.part.text for added in telling.push(after, True)]
    assert filling.strip() in "".join(told).replace('"time"', "")


def test_one_call_is_told_where_only_one_may_be() -> None:
    """Red when parallel_tool_calls is ignored."""
    one = ReplyReader(style=STYLES["hermes"], is_parallel=False)
    assert len(one.read(f"<tool_call>{WEATHER}</tool_call>" * 2, True).calls) == 1


@pytest.mark.parametrize(
    ("words", "style", "thinking"),
    [
        ("{{ '<tool_call>' }} </think>", "hermes", "<think>"),
        ("<tool_call>\n<function=f>\n<parameter=a>", "qwen3coder", None),
        ("[TOOL_CALLS] [/THINK]", "mistral", "[THINK]"),
        ("'<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>'", "deepseek", None),
        ("respond only with <|tool_call|> followed by a JSON list", "granite", None),
        ('{"name": function name, "parameters": {}} <|python_tag|>', "llama3", None),
        ('answer with a ```json block: {"name": f}', "fenced", None),
        ("<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>", None, None),
        ("<|im_start|>", None, None),
    ],
)
def test_a_template_tells_how_its_model_writes(
    words: str, style: str | None, thinking: str | None
) -> None:
    found = detect_thinking(words.__contains__)
    assert detect_style(words.__contains__) == style
    assert (found and found.opening) == thinking


def test_every_style_can_be_asked_for_by_a_setting() -> None:
    """Red when a style is written and no server can be told to use it."""
    assert get_args(Parser) == tuple(STYLES)
