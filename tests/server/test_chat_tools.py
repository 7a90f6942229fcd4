"""Calls and reasoning over the wire: the same, however an engine's tokens come in blocks."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import EmittedToken, Finished, Output, SpeculationStats, TokenizerState, Update
from server.choice import ChoiceWriter
from server.piece import Manner
from server.text import Tokenizer
from tests.chats import HERMES, THINKING
from tests.server.conftest import LiveServer, StartServer, serving
from tests.server.fakes import EOS, Behaviour, byte_level_tokenizer, step_stats
from tests.server.test_chat import folded, stream, whole

TOKENIZER = byte_level_tokenizer()
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
REPLY = f"<think>\nWarm?\n</think>\n\nLet me look.\n{CALL}\n{CALL}"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"default": None}}},
    },
}


class Blocks:
    """A script whose text comes in blocks of these widths, over and over, and ends by itself."""

    def __init__(self) -> None:
        self.text = REPLY
        self.widths = [2]

    def __call__(self, request: object) -> list[list[int]]:
        ids = [*TOKENIZER.encode(self.text), EOS]
        cut: list[list[int]] = []
        while ids:
            width = self.widths[len(cut) % len(self.widths)]
            cut, ids = [*cut, ids[:width]], ids[width:]
        return cut


@pytest.fixture(scope="module")
def script() -> Blocks:
    return Blocks()


@pytest.fixture(scope="module")
def live(script: Blocks) -> Iterator[LiveServer]:
    behaviour = Behaviour(script, chat_templates={"default": THINKING}, window=2048)
    with serving(behaviour) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


MARKS = [
    CALL,
    "<think>",
    "</think>",
    "Yes",
    "\n",
    "<tool_call>",
    '{"name": "weather"',
    "</tool_call>",
]


@given(
    text=st.lists(st.sampled_from(MARKS), max_size=5).map("".join),
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    body=st.fixed_dictionaries(
        {},
        optional={
            "tools": st.just([TOOL]),
            "parallel_tool_calls": st.booleans(),
            "enable_thinking": st.booleans(),
            "max_tokens": st.integers(1, 60),
            "stop": st.sampled_from(["city", ["</think>\n", "Yes"], "l>"]),
            "logprobs": st.just(True),
            "return_token_ids": st.booleans(),
        },
    ),
)
def test_no_reply_depends_on_how_its_tokens_come_in_blocks(
    live: LiveServer, script: Blocks, text: str, widths: list[int], body: dict[str, Any]
) -> None:
    """Red when a call, a `</think>`, a stop or an end inside a block falls elsewhere than alone."""
    script.text, script.widths = text, [1]
    plain = live.chat(seed=1, **body).json()
    script.widths = widths
    drafted = live.chat(seed=1, **body).json()
    streamed = folded(stream(live, seed=1, **body))
    for choice in (plain["choices"][0], drafted["choices"][0], streamed[0]):
        for number, call in enumerate(choice["message"].get("tool_calls", [])):
            assert len(call.pop("id")) == 9, number
    assert plain["choices"] == drafted["choices"]
    assert streamed == whole(drafted)


def test_a_client_calls_a_tool_and_tells_what_it_found(
    client: openai.OpenAI, script: Blocks, live: LiveServer
) -> None:
    """Red when a call is not what the official client takes, or its answer not what we take."""
    script.text, script.widths = REPLY, [3]
    said: list[Any] = [{"role": "user", "content": "Warm?"}]
    reply = client.chat.completions.create(model="fake", messages=said, tools=[TOOL])  # type: ignore[list-item]
    [choice] = reply.choices
    message = choice.message
    assert choice.finish_reason == "tool_calls" and message.content == "Let me look."
    assert (message.model_extra or {})["reasoning_content"] == "Warm?"
    assert message.tool_calls is not None and len(message.tool_calls) == 2
    first, second = message.tool_calls
    assert first.type == "function" and first.function.name == "weather"
    assert json.loads(first.function.arguments) == {"city": "Oslo"} and first.id != second.id
    answer = {"role": "tool", "tool_call_id": first.id, "content": "12 degrees"}
    script.text = "Not very."
    again = client.chat.completions.create(
        model="fake",
        messages=[*said, message.to_dict(), answer],
        tools=[TOOL],  # type: ignore[list-item]
    )
    assert again.choices[0].message.content == "Not very."
    assert again.choices[0].finish_reason == "stop"
    prompt = TOKENIZER.inner.decode(list(live.behaviour.requests[-1].prompt))
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in prompt
    assert prompt.startswith('[{"type": "function", "function": {"name": "weather", ')
    assert '"properties": {"city": {"default": null}}' in prompt
    assert "<tool>12 degrees" in prompt


def test_calls_of_two_turns_have_two_ids(live: LiveServer, script: Blocks) -> None:
    """Red when a client that sends one id with all requests cannot tell calls apart."""
    script.text, script.widths = REPLY, [3]
    body = {"messages": [{"role": "user", "content": "Warm?"}], "tools": [TOOL], "n": 2}
    headers = {"content_type": "application/json", "x_request_id": "mine"}
    ids = [
        call["id"]
        for _ in range(2)
        for choice in live.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), **headers
        ).json()["choices"]
        for call in choice["message"]["tool_calls"]
    ]
    assert len(ids) == 8 == len({*ids})


def test_a_streamed_call_tells_its_name_first_and_then_its_arguments(
    client: openai.OpenAI, script: Blocks
) -> None:
    """Red when a client must wait for a whole call, or gets a piece twice."""
    script.text, script.widths = REPLY, [1]
    stream = client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "Warm?"}],
        tools=[TOOL],  # type: ignore[list-item]
        stream=True,
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    named = [at for at, piece in enumerate(pieces) if piece.id]
    assert [pieces[at].index for at in named] == [0, 1] and named[0] == 0
    assert all(piece.function and piece.function.arguments for piece in pieces if not piece.id)
    assert len(pieces) > 8
    reasoning = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    assert reasoning == "Warm?"


def test_the_helper_that_accumulates_streams_understands_ours(
    client: openai.OpenAI, script: Blocks
) -> None:
    """Red when a delta is not one that openai's own accumulation takes."""
    script.text, script.widths = REPLY, [4]
    with client.chat.completions.stream(
        model="fake",
        messages=[{"role": "user", "content": "Warm?"}],
        tools=[TOOL],  # type: ignore[list-item]
    ) as events:
        list(events)
        message = events.get_final_completion().choices[0].message
    assert message.content == "Let me look." and message.tool_calls is not None
    assert [call.function.name for call in message.tool_calls] == ["weather"] * 2


def test_the_asynchronous_client_streams(live: LiveServer, script: Blocks) -> None:
    """Red when only what blocks can read our chunks."""

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(
                model="fake", messages=[{"role": "user", "content": "Warm?"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    script.text = "Yes."
    assert asyncio.run(ask()) == "Yes."


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (HERMES, '{"name": "f", "arguments": {"a": "é"}}'),
        (HERMES.replace("(call.function | tojson)", "call.function.arguments"), '{"a": "é"}'),
    ],
)
def test_arguments_reach_a_template_as_it_can_write_them(
    start_server: StartServer, template: str, written: str
) -> None:
    """Red when a template that puts the text of arguments together with others refuses a call."""
    function = {"name": "f", "arguments": '{"a": "é"}'}
    said = [
        {"role": "user", "content": "Warm?"},
        {"role": "assistant", "tool_calls": [{"function": function}]},
    ]
    behaviour = Behaviour(chat_templates={"default": template})
    server = start_server(behaviour).wait_ready()
    assert server.chat(messages=said).status == 200
    prompt = TOKENIZER.inner.decode(list(behaviour.requests[0].prompt))
    assert f"<tool_call>{written}</tool_call>" in prompt


def test_the_prompt_may_have_begun_to_reason(live: LiveServer, script: Blocks) -> None:
    """Red when what stands before `</think>` is content because no mark began it."""
    script.text = "Warm?</think>Yes."
    for thinking, expected in [(True, ("Warm?", "Yes.")), (False, (None, "Warm?</think>Yes."))]:
        body = live.chat(chat_template_kwargs={"enable_thinking": thinking}).json()
        message = body["choices"][0]["message"]
        assert (message.get("reasoning_content"), message["content"]) == expected


def test_a_parser_may_be_named_for_a_template_that_tells_none(start_server: StartServer) -> None:
    """Red when --tool-parser is read and not used, or nobody says that one is needed."""
    silent = HERMES.replace("<tool_call>...</tool_call>", "")
    silent = silent.replace("'<tool_call>' + ", "").replace(" + '</tool_call>'", "")
    script = Blocks()
    behaviour = Behaviour(script, chat_templates={"default": silent}, window=2048)
    reply = start_server(behaviour).wait_ready().chat(tools=[TOOL])
    assert reply.status == 400 and "--tool-parser" in reply.json()["error"]["message"]
    script.text = CALL.removeprefix("<tool_call>").removesuffix("</tool_call>")
    named = start_server(behaviour, tool_parser="llama3").wait_ready()
    [choice] = named.chat(tools=[TOOL]).json()["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    assert choice["message"]["content"] is None


@given(widths=st.lists(st.integers(1, 6), min_size=1))
def test_special_tokens_that_mark_a_call_are_seen_and_others_are_not(widths: list[int]) -> None:
    """Red when `[TOOL_CALLS]`, which leaves no text by itself, is lost before it is looked for."""
    raw = Tokenizer.of(TokenizerState(TOKENIZER.inner.to_str())).inner
    raw.add_special_tokens(["[TOOL_CALLS]", "[OTHER]"])
    tokenizer = Tokenizer(raw)
    ids = tokenizer.encode('a [OTHER]b[TOOL_CALLS][{"name": "f"}]<|endoftext|>')
    manner = Manner(shown=frozenset({"[TOOL_CALLS]"}))
    writer = ChoiceWriter(0, (1,), tokenizer, manner)
    text = ""
    while ids:
        width = widths.pop(0) if widths else len(ids)
        tokens, ids = tuple(map(EmittedToken, ids[:width])), ids[width:]
        end = None if ids else Finished("", "stop", SpeculationStats(), EOS)
        writer.push(Update("", Output("", tokens, step_stats(len(tokens))), end))
        piece = writer.take()
        text += piece.text if piece else ""
    assert text == 'a b[TOOL_CALLS][{"name": "f"}]'
