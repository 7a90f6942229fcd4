"""Anthropic's messages: its SDK unmodified, bodies as Claude Code sends them, and its errors."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.chats import REFUSING, THINKING
from tests.server.conftest import LiveServer, Reply, StartServer, serving
from tests.server.fakes import Behaviour
from tests.server.test_chat_tools import CALL, MARKS, REPLY, TOKENIZER, Blocks

TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
HIDDEN = {"type": "redacted_thinking", "data": "x"}
ASKED: list[Any] = [{"role": "user", "content": "Warm?"}]


@pytest.fixture(scope="module")
def script() -> Blocks:
    return Blocks()


@pytest.fixture(scope="module")
def live(script: Blocks) -> Iterator[LiveServer]:
    behaviour = Behaviour(script, chat_templates={"default": THINKING}, window=4096)
    with serving(behaviour) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
        yield client


def ask(server: LiveServer, path: str = "", **body: Any) -> Reply:
    sent = json.dumps({"messages": ASKED, "max_tokens": 1000, **body}).encode()
    return server.request("POST", f"/v1/messages{path}", sent, content_type="application/json")


def events(reply: Reply) -> list[Any]:
    """The events of a stream but pings, each as the SDK types it."""
    assert reply.status == 200, reply.body
    told = []
    for event in reply.body.decode().split("\n\n"):
        if event:
            name, data = event.split("\n")
            told.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {told[-1]['type']}"
    told = [event for event in told if event["type"] != "ping"]
    for event in told:
        EVENTS.validate_python(event)
    return told


def prompt(server: LiveServer) -> str:
    return str(TOKENIZER.inner.decode(list(server.behaviour.requests[-1].prompt)))


def folded(told: list[Any]) -> dict[str, Any]:
    """The message that events add up to, as clients add them up."""
    message = dict(told[0]["message"])
    blocks: list[dict[str, Any]] = []
    written: list[str] = []
    for event in told[1:]:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
            written.append("")
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1, "a block grows behind another"
            [(name, value)] = [item for item in event["delta"].items() if item[0] != "type"]
            if name == "partial_json":
                written[-1] += value
            else:
                blocks[-1][name] += value
        elif event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    for block, text in zip(blocks, written, strict=True):
        if block["type"] == "tool_use":
            block["input"] = _parsed(text)
    return {**message, "content": blocks}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {"unparsed": text}


def timeless(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs between two of them."""
    for block in message["content"]:
        block.pop("id", None)
    return {name: value for name, value in message.items() if name not in ("id", "metrics")}


@given(
    text=st.lists(st.sampled_from(MARKS), max_size=5).map("".join),
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    body=st.fixed_dictionaries(
        {},
        optional={
            "tools": st.just([TOOL]),
            "tool_choice": st.just({"type": "auto", "disable_parallel_tool_use": True}),
            "thinking": st.sampled_from([{"type": "disabled"}, {"type": "adaptive"}]),
            "max_tokens": st.integers(0, 60),
            "stop_sequences": st.sampled_from([["city"], ["</think>\n", "Yes"], ["l>"]]),
        },
    ),
)
def test_no_reply_depends_on_how_its_tokens_come_in_blocks(
    live: LiveServer, script: Blocks, text: str, widths: list[int], body: dict[str, Any]
) -> None:
    """Red when a block, a stop, an end or a count falls elsewhere in a step than alone."""
    script.text, script.widths = text, [1]
    plain = ask(live, seed=1, **body).json()
    Message.model_validate(plain)
    script.widths = widths
    told = events(ask(live, seed=1, stream=True, **body))
    assert timeless(folded(told)) == timeless(plain)


def test_events_come_in_anthropics_order_with_pings(live: LiveServer, script: Blocks) -> None:
    """Red when a client that follows them by the book meets one where it does not belong."""
    script.text, script.widths = REPLY, [1]
    reply = ask(live, stream=True, tools=[TOOL])
    assert b'event: ping\ndata: {"type":"ping"}\n\n' in reply.body and b"[DONE]" not in reply.body
    kinds = [
        event["delta"]["type"] if event["type"] == "content_block_delta" else event["type"]
        for event in events(reply)
    ]
    assert [kind for kind, after in zip(kinds, [*kinds[1:], ""], strict=True) if kind != after] == [
        "message_start",
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop") * 2,
        *("message_delta", "message_stop"),
    ]


def test_a_stream_that_waits_is_pinged(start_server: StartServer) -> None:
    """Red when a proxy takes a stream for dead because a model is slow to begin."""
    behaviour = Behaviour(chat_templates={"default": THINKING}, step_seconds=0.3)
    server = start_server(behaviour, stream_wait_seconds=0.1).wait_ready()
    reply = ask(server, stream=True, max_tokens=1)
    assert reply.body.startswith(b'event: ping\ndata: {"type": "ping"}\n\n')
    assert events(reply)[0]["type"] == "message_start"


def test_a_client_calls_a_tool_and_tells_what_it_found(
    client: anthropic.Anthropic, script: Blocks, live: LiveServer
) -> None:
    """Red when a block is not what the official client takes, or its answer not what we take."""
    script.text, script.widths = REPLY, [3]
    ask_ = client.messages.create
    tools: Any = [TOOL]
    first = ask_(model="fake", max_tokens=900, system="Be brief.", messages=ASKED, tools=tools)
    kinds = [block.type for block in first.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert first.stop_reason == "tool_use"
    call = first.content[2]
    assert call.type == "tool_use" and call.input == {"city": "Oslo"} and len(call.id) == 9
    found: Any = {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees"},
            {"type": "text", "text": "So?"},
        ],
    }
    script.text = "Not very."
    said: Any = {"role": "assistant", "content": first.content}
    again = ask_(model="fake", max_tokens=20, messages=[*ASKED, said, found], tools=tools)
    assert [block.text for block in again.content if block.type == "text"] == ["Not very."]
    assert again.stop_reason == "end_turn"
    told = prompt(live)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in told
    assert "<tool>12 degrees" in told and "<user>So?" in told
    assert '"properties": {"city": {"type": "string"}}' in told


def test_the_runner_of_tools_goes_on_until_there_are_no_more_calls(
    client: anthropic.Anthropic, script: Blocks
) -> None:
    """Red when the SDK's own loop, which is in beta, cannot be turned with our blocks."""
    asked: list[str] = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        script.text = "Not very."
        return "12 degrees"

    script.text, script.widths = CALL, [3]
    runner = client.beta.messages.tool_runner(
        model="fake", max_tokens=900, messages=ASKED, tools=[weather]
    )
    [block] = runner.until_done().content
    assert block.type == "text" and block.text == "Not very." and asked == ["Oslo"]


def test_the_helper_that_accumulates_streams_understands_ours(
    client: anthropic.Anthropic, script: Blocks
) -> None:
    """Red when an event is not one that the SDK's own accumulation takes."""
    script.text, script.widths = REPLY, [4]
    tools: Any = [TOOL]
    with client.messages.stream(
        model="fake", max_tokens=900, messages=ASKED, tools=tools
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "Let me look." and final.stop_reason == "tool_use"
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"city": "Oslo"}
    ] * 2
    assert [block.thinking for block in final.content if block.type == "thinking"] == ["Warm?"]


def test_the_asynchronous_client_streams(live: LiveServer, script: Blocks) -> None:
    """Red when only what blocks can read our events."""

    async def listen() -> str:
        async with anthropic.AsyncAnthropic(base_url=live.url, api_key="none") as client:
            stream = client.messages.stream(model="fake", max_tokens=9, messages=ASKED)
            async with stream as told:
                return "".join([text async for text in told.text_stream])

    script.text = "Yes."
    assert asyncio.run(listen()) == "Yes."


def test_tokens_are_counted_exactly_and_before_they_are_asked_for(
    client: anthropic.Anthropic, script: Blocks, live: LiveServer
) -> None:
    """Red when a count is a guess, or another than that of the message itself."""
    script.text, script.widths = REPLY, [7]
    tools: Any = [TOOL]
    counted = client.messages.count_tokens(
        model="fake", messages=ASKED, tools=tools, system="Be brief."
    )
    message = client.messages.create(
        model="fake", max_tokens=900, messages=ASKED, tools=tools, system="Be brief."
    )
    usage = message.usage
    assert usage.cache_read_input_tokens == 3
    assert counted.input_tokens == usage.input_tokens + 3
    assert counted.input_tokens == len(live.behaviour.requests[-1].prompt)
    assert usage.output_tokens == len(TOKENIZER.encode(REPLY)) + 1  # the end of the text
    until = REPLY[: REPLY.index("</think>")]
    num_thinking = len(TOKENIZER.encode(until)) + len(TOKENIZER.encode("</think>"))
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == num_thinking
    start, *_, delta, _ = events(ask(live, stream=True, tools=[TOOL], system="Be brief."))
    assert start["message"]["usage"]["input_tokens"] == usage.input_tokens
    assert delta["usage"]["output_tokens"] == usage.output_tokens


def test_a_text_of_the_assistants_at_the_end_is_continued(live: LiveServer, script: Blocks) -> None:
    """Red when the model answers what it was to go on with."""
    script.text = " 1}"
    said = [*ASKED, {"role": "assistant", "content": '{"a":'}]
    assert ask(live, messages=said).json()["content"][0]["text"] == " 1}"
    assert prompt(live).endswith('<assistant>{"a":')


CLAUDE_CODE: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 1000,
    "stream": True,
    "temperature": 1,
    "metadata": {"user_id": "user_0_account__session_0"},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.37; cch=fa690;"},
        {
            "type": "text",
            "text": "You are Claude Code, Anthropic's official CLI for Claude.",
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>today</system-reminder>"},
                {"type": "text", "text": "hi"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Look:"},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "toolu_2", "name": "Bash", "input": {"command": "pwd"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "<tool_use_error>no</tool_use_error>",
                    "is_error": True,
                    "cache_control": {"type": "ephemeral"},
                },
            ],
        },
        {"role": "user", "content": "and?"},
    ],
    "tools": [
        {
            "name": "Bash",
            "description": "Runs a command.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"command": {"type": "string"}},
                "required": ["command"],
                "additionalProperties": False,
            },
            "eager_input_streaming": True,
        },
        {"type": "custom", "name": "Read", "input_schema": {"type": "object", "properties": {}}},
    ],
}


def test_claude_code_is_served(live: LiveServer, script: Blocks) -> None:
    """Red when a body, a header or a query as Claude Code sends them is refused or misread."""
    call = '{"name": "Bash", "arguments": {"command": "ls"}}'
    script.text, script.widths = f"<tool_call>{call}</tool_call>", [5]
    headers = {
        "content_type": "application/json",
        "x_api_key": "none",
        "anthropic_version": "2023-06-01",
        "anthropic_beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "x_stainless_lang": "js",
    }
    body = json.dumps(CLAUDE_CODE).encode()
    told = events(live.request("POST", "/v1/messages?beta=true", body, **headers))
    [block] = folded(told)["content"]
    assert (block["name"], block["input"]) == ("Bash", {"command": "ls"})
    said = prompt(live)
    assert "billing" not in said and "ephemeral" not in said
    assert "official CLI for Claude.\nBe brief." in said
    assert said.count("<user>") == 2 and said.count("<assistant>") == 2
    assert "<tool>a\nb" in said and said.count("<tool_call>{") == 2
    counted = {name: CLAUDE_CODE[name] for name in ("model", "system", "messages", "tools")}
    path = "/v1/messages/count_tokens?beta=true"
    reply = live.request("POST", path, json.dumps(counted).encode(), **headers)
    assert reply.json() == {"input_tokens": len(live.behaviour.requests[-1].prompt)}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format: must be"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "reads text alone"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [HIDDEN]}]}, "messages: they say nothing"),
        ({"tool_choice": {"type": "any"}, "tools": [TOOL], "guided_regex": "a"}, "another form"),
        ({"structured_outputs": {"regex": "\ud800"}}, "structured_outputs"),
        ({"temprature": 1}, "temperature"),
        ({"n": 2}, "one reply"),
    ],
)
def test_what_cannot_be_done_is_refused_in_anthropics_envelope(
    live: LiveServer, body: dict[str, Any], words: str
) -> None:
    """Red when something is ignored that a client counts on, or an SDK cannot read the reason."""
    reply = ask(live, **body)
    assert reply.status == 400, reply.body
    told = reply.json()
    assert told["type"] == "error" and told["error"]["type"] == "invalid_request_error"
    assert words in told["error"]["message"], told


def test_errors_are_anthropics_on_these_routes_alone(start_server: StartServer) -> None:
    """Red when a key is not asked for as the SDK gives it, or another API gets these words."""
    server = start_server(Behaviour(chat_templates={"default": REFUSING}), api_key="right")
    server.wait_ready()
    said: dict[str, Any] = {"model": "fake", "max_tokens": 5, "messages": ASKED}
    with anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            client.messages.create(**said)
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    with anthropic.Anthropic(base_url=server.url, api_key="right", max_retries=0) as client:
        assert client.messages.create(**said).content[0].type == "text"
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            client.messages.create(**{**said, "model": "other"})
        with pytest.raises(anthropic.BadRequestError, match="no system here"):
            client.messages.create(**said, system="Be brief.")
    with anthropic.Anthropic(base_url=server.url, auth_token="right", max_retries=0) as client:
        assert client.messages.count_tokens(model="fake", messages=ASKED).input_tokens > 0
    assert "code" in server.chat().json()["error"]
    too_large = ask(server, system="x" * 2**23, **{"model": "fake"})
    assert too_large.json()["error"]["type"] in ("authentication_error", "request_too_large")


def test_what_goes_wrong_in_a_stream_is_an_event_that_the_sdk_raises(
    start_server: StartServer,
) -> None:
    """Red when a client takes a broken reply for whole."""
    behaviour = Behaviour(chat_templates={"default": THINKING}, dies_at_step=1, step_seconds=0.01)
    server = start_server(behaviour).wait_ready()
    with (
        anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client,
        pytest.raises(anthropic.APIStatusError, match="api_error"),
        client.messages.stream(model="fake", max_tokens=99, messages=ASKED) as stream,
    ):
        list(stream)


def test_a_call_that_the_limit_cuts_is_told_as_it_was_written(
    live: LiveServer, script: Blocks
) -> None:
    """Red when half a call is lost, or looks like a whole one."""
    script.text, script.widths = CALL, [3]
    limit = len(TOKENIZER.encode(CALL)) - 14
    message = ask(live, tools=[TOOL], max_tokens=limit).json()
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][0]["input"]["unparsed"].startswith('{"city"')
