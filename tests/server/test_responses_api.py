"""OpenAI's Responses: its SDK unmodified, bodies as Codex sends them, and what never changes."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.chats import THINKING
from tests.server.conftest import LiveServer, Reply, StartServer, serving
from tests.server.fakes import Behaviour
from tests.server.test_chat_tools import CALL, MARKS, REPLY, TOKENIZER, Blocks

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def script() -> Blocks:
    return Blocks()


@pytest.fixture(scope="module")
def live(script: Blocks) -> Iterator[LiveServer]:
    behaviour = Behaviour(script, chat_templates={"default": THINKING}, window=4096)
    with serving(behaviour) as server:
        yield server


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def deep(levels: int) -> dict[str, Any]:
    """Objects in objects."""
    return {"a": deep(levels - 1)} if levels else {}


def ask(server: LiveServer, **body: Any) -> Reply:
    sent = json.dumps({"input": "Warm?", **body}).encode()
    return server.request("POST", "/v1/responses", sent, content_type="application/json")


def events(reply: Reply) -> list[Any]:
    """The events of a stream, each with its name beside its data, and as the SDK types it."""
    assert reply.status == 200, reply.body
    told = []
    for event in reply.body.decode().split("\n\n"):
        if event and not event.startswith(":"):
            name, data = event.split("\n")
            told.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {told[-1]['type']}"
            EVENTS.validate_python(told[-1])
    assert [event["sequence_number"] for event in told] == [*range(len(told))]
    return told


def prompt(server: LiveServer) -> str:
    return str(TOKENIZER.inner.decode(list(server.behaviour.requests[-1].prompt)))


def timeless(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without what differs between two of them."""
    told = {name: value for name, value in reply.items() if name not in _OF_ITS_TIME}
    for item in told["output"]:
        item.pop("id")
        item.pop("call_id", None)
    return told


_OF_ITS_TIME = ("id", "created_at", "metrics")


def folded(told: list[Any]) -> list[dict[str, Any]]:
    """The items that events add up to, by their deltas alone."""
    items: dict[int, dict[str, Any]] = {}
    for event in told:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(items)
            items[len(items)] = {"type": event["item"]["type"], "text": ""}
        if event["type"].endswith(".delta"):
            assert event["output_index"] == len(items) - 1, "an item grows behind another"
            items[event["output_index"]]["text"] += event["delta"]
    return [*items.values()]


def texts(output: list[Any]) -> list[dict[str, Any]]:
    """The items of a reply with their texts, as `folded` has them."""
    return [
        {"type": item["type"], "text": item["arguments"] if "arguments" in item else _text(item)}
        for item in output
    ]


def _text(item: dict[str, Any]) -> str:
    return str(item["input"] if "input" in item else item["content"][0]["text"])


@given(
    text=st.lists(st.sampled_from(MARKS), max_size=5).map("".join),
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    body=st.fixed_dictionaries(
        {},
        optional={
            "tools": st.just([TOOL]),
            "parallel_tool_calls": st.booleans(),
            "reasoning": st.just({"effort": "none"}),
            "max_output_tokens": st.integers(1, 60),
            "stop": st.sampled_from(["city", ["</think>\n", "Yes"], "l>"]),
        },
    ),
)
def test_no_reply_depends_on_how_its_tokens_come_in_blocks(
    live: LiveServer, script: Blocks, text: str, widths: list[int], body: dict[str, Any]
) -> None:
    """Red when a part, a stop, an end or a count falls elsewhere in a block than alone."""
    script.text, script.widths = text, [1]
    plain = ask(live, seed=1, **body).json()
    OpenAIResponse.model_validate(plain)
    script.widths = widths
    told = events(ask(live, seed=1, stream=True, **body))
    final = told[-1]
    assert final["type"] == f"response.{plain['status']}"
    assert folded(told) == texts(plain["output"]) == texts(final["response"]["output"])
    assert timeless(final["response"]) == timeless(plain)


def test_events_come_in_openais_order(live: LiveServer, script: Blocks) -> None:
    """Red when a client that follows them by the book meets one where it does not belong."""
    script.text, script.widths = REPLY, [1]
    told = events(ask(live, stream=True, tools=[TOOL]))
    kinds = [event["type"].removeprefix("response.") for event in told]
    assert [kind for kind, after in zip(kinds, [*kinds[1:], ""], strict=True) if kind != after] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]


def test_a_client_calls_a_tool_and_tells_what_it_found(
    client: openai.OpenAI, script: Blocks, live: LiveServer
) -> None:
    """Red when an item is not what the official client takes, or what it sends back is not ours."""
    script.text, script.widths = REPLY, [3]
    first = client.responses.create(
        model="fake",
        instructions="Be brief.",
        input="Warm?",
        tools=[TOOL],  # type: ignore[list-item]
        store=False,
        include=["reasoning.encrypted_content"],
        extra_body={"seed": 7},
    )
    assert [item.type for item in first.output] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    assert first.output_text == "Let me look." and first.status == "completed"
    call = first.output[2]
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Oslo"}
    assert (first.model_extra or {})["seed"] == 7 and first.store is False
    script.text = "Not very."
    found: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    again = client.responses.create(
        model="fake",
        input=[
            {"role": "user", "content": "Warm?"},
            *[item.to_dict() for item in first.output],  # type: ignore[list-item]
            found,
        ],
        tools=[TOOL],  # type: ignore[list-item]
    )
    assert again.output_text == "Not very."
    said = prompt(live)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>' in said
    assert "<tool>12 degrees" in said and said.count("<assistant>") == 2


def test_the_helper_that_accumulates_streams_understands_ours(
    client: openai.OpenAI, script: Blocks
) -> None:
    """Red when an event is not one that openai's own accumulation takes."""
    script.text, script.widths = REPLY, [4]
    with client.responses.stream(
        model="fake",
        input="Warm?",
        tools=[TOOL],  # type: ignore[list-item]
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Let me look."
    assert [item.type for item in final.output].count("function_call") == 2


def test_the_asynchronous_client_streams(live: LiveServer, script: Blocks) -> None:
    """Red when only what blocks can read our events."""

    async def listen() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
            stream = await client.responses.create(model="fake", input="Warm?", stream=True)
            told = [event async for event in stream]
            text = "".join(e.delta for e in told if e.type == "response.output_text.delta")
            whole = await client.responses.create(model="fake", input="Warm?")
            return text, whole.output_text

    script.text = "Yes."
    assert asyncio.run(listen()) == ("Yes.", "Yes.")


def test_tokens_are_counted_exactly(live: LiveServer, script: Blocks) -> None:
    """Red when reasoning, cached or written tokens are guessed, or counted by the block."""
    script.text, script.widths = REPLY, [7]
    usage = ask(live, tools=[TOOL]).json()["usage"]
    num_reasoning = len(TOKENIZER.encode(REPLY[: REPLY.index("</think>")]))
    num_marks = len(TOKENIZER.encode("</think>"))
    assert usage["output_tokens"] == len(TOKENIZER.encode(REPLY)) + 1  # the end of the text
    assert usage["output_tokens_details"] == {"reasoning_tokens": num_reasoning + num_marks}
    assert usage["input_tokens"] == len(live.behaviour.requests[-1].prompt)
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    chat = live.chat(tools=[{"type": "function", "function": {"name": "weather"}}]).json()["usage"]
    told = chat["completion_tokens_details"]["reasoning_tokens"]
    assert told == num_reasoning + num_marks


PATCH = "*** Begin Patch\n*** Delete File: a\n*** End Patch\n"
CODEX: dict[str, Any] = {
    "model": "fake",
    "instructions": "You are a coding agent running in the Codex CLI.",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "<permissions instructions>"}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "<environment_context>"}],
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
            "encrypted_content": None,
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Look:"}],
        },
        {
            "type": "function_call",
            "name": "exec_command",
            "arguments": '{"cmd": "ls"}',
            "call_id": "c1",
        },
        {"type": "function_call_output", "call_id": "c1", "output": "a\nb"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": PATCH},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "Success."},
    ],
    "tools": [
        {
            "type": "function",
            "name": "exec_command",
            "description": "Runs a command.",
            "strict": False,
            "parameters": {
                "type": "object",
                "properties": {"cmd": {"type": "string"}},
                "required": ["cmd"],
                "additionalProperties": False,
            },
        },
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Use the `apply_patch` tool to edit files.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch"},
        },
        {"type": "web_search", "external_web_access": False},
        {
            "type": "namespace",
            "name": "mcp__docs",
            "description": "Documents.",
            "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}}],
        },
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199a213-81a0-7800-8aa0-2f1d1c4c6d8e",
    "client_metadata": {"x-codex-installation-id": "i"},
}


@pytest.mark.parametrize(
    "named",
    [
        {"name": "mcp__docs.find"},
        {"name": "find"},
        {"namespace": "mcp__docs", "name": "find"},
    ],
    ids=str,
)
def test_a_tool_of_a_namespace_can_be_forced_by_any_of_its_names(
    live: LiveServer, named: dict[str, str]
) -> None:
    """Red when who knows the tool as `find`, as the API has it, is told that there is none."""
    choice = {"type": "function", **named}
    assert ask(live, **{**CODEX, "tool_choice": choice}).status == 200
    constraint = live.behaviour.constraints[-1].source
    assert "mcp__docs.find" in constraint and "exec_command" not in constraint


@pytest.mark.parametrize(
    ("written", "item"),
    [
        (
            {"name": "exec_command", "arguments": {"cmd": "ls"}},
            {"type": "function_call", "name": "exec_command", "arguments": '{"cmd": "ls"}'},
        ),
        (
            {"name": "apply_patch", "arguments": {"input": PATCH}},
            {"type": "custom_tool_call", "name": "apply_patch", "input": PATCH},
        ),
        (
            {"name": "mcp__docs.find", "arguments": {}},
            {"type": "function_call", "namespace": "mcp__docs", "name": "find", "arguments": "{}"},
        ),
    ],
)
def test_codex_is_served(
    live: LiveServer, script: Blocks, written: dict[str, Any], item: dict[str, Any]
) -> None:
    """Red when a body as Codex sends it is refused, or its own kinds of tools are not its own."""
    script.text, script.widths = f"<tool_call>{json.dumps(written)}</tool_call>", [5]
    told = events(ask(live, **CODEX))
    [done] = [event for event in told if event["type"] == "response.output_item.done"]
    assert done["item"].items() >= {**item, "status": "completed"}.items()
    assert done["item"]["call_id"] and told[-1]["response"]["output"] == [done["item"]]
    told_text = [event["delta"] for event in told if event["type"].endswith(".delta")]
    assert "".join(told_text) == item.get("arguments", item.get("input"))
    said = prompt(live)
    assert said.index("Codex CLI") < said.index("<permissions instructions>")
    assert said.count("<system>") == 1 and said.count("<user>") == 1
    assert "start: begin_patch" in said and "web_search" not in said
    assert said.count("<assistant>") == 3 and '{"input": "*** Begin Patch\\n' in said


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing is stored"),
        ({"conversation": "conv_1"}, "conversation", "nothing is stored"),
        ({"prompt": {"id": "p"}}, "prompt", "no prompts are kept"),
        ({"background": True}, "background", "not supported"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format", "json_schema"),
        ({"reasoning": {"effort": "\ud800"}}, "reasoning", "surrogate"),
        ({"metadata": {"a": "\ud800"}}, "metadata", "surrogate"),
        ({"tools": [{**TOOL, "parameters": deep(300)}]}, "tools", "deep"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "not supported"),
        (
            {"tools": [TOOL], "tool_choice": "required", "guided_regex": "a"},
            "tool_choice",
            "another form",
        ),
        ({"include": ["message.output_text.logprobs"]}, "include", "log-probabilities"),
        ({"n": 2}, "n", "one reply"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "nothing is stored"),
        ({"input": [{"type": "computer_call"}]}, "input", "'computer_call'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.message.content",
            "reads text alone",
        ),
        ({"tools": [{"type": "file_search"}]}, "tools.0", "file_search"),
        ({"temprature": 1}, "temprature", "temperature"),
        ({"model": "other"}, "model", "does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    live: LiveServer, body: dict[str, Any], param: str, words: str
) -> None:
    """Red when something is ignored that a client counts on, or the words do not help."""
    reply = ask(live, **body)
    error = reply.json()["error"]
    assert reply.status in (400, 404), reply.body
    assert (error["param"], words in error["message"]) == (param, True), error


def test_what_goes_wrong_in_a_stream_is_an_event_of_a_failed_response(
    start_server: StartServer,
) -> None:
    """Red when a client waits for an end that does not come, or takes a broken reply for whole."""
    behaviour = Behaviour(chat_templates={"default": THINKING}, dies_at_step=1, step_seconds=0.01)
    server = start_server(behaviour).wait_ready()
    *told, last = events(ask(server, stream=True))
    assert told[-1]["type"] == "response.output_text.delta"
    assert last["type"] == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert last["response"]["error"]["type"] == "engine_died"


def test_a_call_that_the_limit_cuts_is_told_as_incomplete(live: LiveServer, script: Blocks) -> None:
    """Red when half a call looks like a whole one."""
    script.text, script.widths = CALL, [3]
    limit = len(TOKENIZER.encode(CALL)) - 14
    told = events(ask(live, stream=True, tools=[TOOL], max_output_tokens=limit))
    final = told[-1]["response"]
    assert told[-1]["type"] == "response.incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["output"][0]["type"] == "function_call"
    assert final["output"][0]["status"] == "incomplete"
