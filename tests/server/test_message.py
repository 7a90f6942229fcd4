"""Reading a reply as a message: what stands where, and that nothing told is ever taken back."""

import json
from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.message import (
    STYLES,
    Call,
    Message,
    ReplyReader,
    Telling,
    Thinking,
    detect_style,
    detect_thinking,
)
from server.settings import Parser

THINK = Thinking("<think>", "</think>")
WEATHER = '{"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}'
ARGUMENTS = '{"city": "Oslo", "days": [1, 2]}'
SCHEMA = {"properties": {"days": {"type": "array"}, "city": {"type": "string"}, "x": {"type": "x"}}}
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
    assert reader(style).read(text, True) == message
    for length in range(len(text)):
        assert begins(reader(style).read(text[:length], False), message), text[:length]


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
    assert reader(None, is_thinking).read(text, True) == message


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
    *("<|python_tag|>", "```json", "```", "```tool_call", WEATHER, ARGUMENTS, '{"name": "time"}'),
    *('{"name": "weather", ', '"arguments": ', '"parameters": {"a": 1}', '"x": 2', '{"', "}", "]"),
    *(TAGGED, "<function=time>", "<parameter=days>", "</parameter>", "</function>", "<function="),
    *("[", ",", ";", ":", '"', "\\", "<", " ", "\n", "weather", "é", "null", "1", '"{}"'),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)
readers = st.builds(reader, st.sampled_from([None, *STYLES]), st.sampled_from([None, False, True]))


def begins(message: Message, more: Message) -> bool:
    """Whether the second message is the first one, or that and more."""
    told = len(message.calls)
    return (
        more.content.startswith(message.content)
        and more.reasoning.startswith(message.reasoning)
        and [call.name for call in message.calls] == [call.name for call in more.calls[:told]]
        and all(
            new.arguments.startswith(old.arguments)
            for old, new in zip(message.calls, more.calls, strict=False)
        )
    )


@given(reader=readers, text=texts)
def test_what_a_text_has_told_stays_told(reader: ReplyReader, text: str) -> None:
    """Red when something is told before it is certain, whatever a model may write."""
    told = Message()
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
    telling, added = Telling(reader.read), Message()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for number, (start, end) in enumerate(pairwise(places), start=2):
        added = plus(added, telling.push(text[start:end], number == len(places)))
    assert added == reader.read(text, True)


def plus(message: Message, piece: Message) -> Message:
    """As clients add pieces up, by the index of a call."""
    calls = list(message.calls)
    for number, call in enumerate(piece.calls):
        if number < len(calls):
            calls[number] = Call(calls[number].name, calls[number].arguments + call.arguments)
        else:
            calls.append(call)
    return Message(
        message.content + piece.content, message.reasoning + piece.reasoning, tuple(calls)
    )


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
    assert json.loads(found.arguments) == arguments


@pytest.mark.parametrize("value", [r'"\ud800"', r'["\udc00"]', "1e999", "-1e999"])
def test_a_value_that_no_client_can_read_stays_the_text_it_was(value: str) -> None:
    """Red when half a surrogate pair, or a number that JSON has not, is told as arguments."""
    text = f"<function=time>\n<parameter=x>{value}</parameter>\n</function>"
    schema = {"properties": {"x": {"type": "array"}}}
    one = ReplyReader(style=STYLES["qwen3coder"], tools={"time": schema})
    [call] = one.read(f"<tool_call>{text}</tool_call>", True).calls
    assert json.loads(call.arguments) == {"x": value}
    assert call.arguments.encode()


def test_half_a_surrogate_pair_is_no_name_and_no_arguments() -> None:
    """Red when a call is told that cannot be sent."""
    for call in (r'{"name": "\ud800"}', r'{"name": "x", "arguments": "{\ud800"}'):
        text = f"<tool_call>{call}</tool_call>"
        assert reader("hermes").read(text, True) == Message(text)


@pytest.mark.parametrize("part", ["[AAAA", "[A A ", "\n"])
def test_what_is_almost_a_name_is_read_once(part: str) -> None:
    """Red, by never ending, when every way to part a hostile text is tried."""
    text = f"[TOOL_CALLS]f{part * 20_000}!"
    assert reader("mistral").read(text, True) == Message(text)


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
