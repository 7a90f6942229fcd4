"""Chat through the command itself, with a real engine over tiny random models."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chats import THINKING
from tests.server.command import Command, save_family
from tests.server.conftest import wait_until

TOOL = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = save_family(tmp_path_factory.mktemp("tiny"))
    (folder / "target" / "chat_template.jinja").write_text(THINKING)
    command = Command(folder, "--draft", str(folder / "draft"), "--max-running", "2")
    wait_until(command.is_ready, seconds=60)
    yield command
    command.stop(signal.SIGKILL)


def chat(command: Command, **body: Any) -> Any:
    return command.client.post("/chat/completions", body={"model": "tiny", **body}, cast_to=object)


texts = st.sampled_from(["def hello(world):", "hello hello hello", "a", "<think>x</think>y", ""])
roles = st.sampled_from(["system", "user", "assistant"])
message = st.fixed_dictionaries({"role": roles, "content": texts})
bodies = st.fixed_dictionaries(
    {
        "messages": st.lists(message, min_size=1, max_size=3),
        "seed": st.integers(0, 5),
        "max_tokens": st.integers(4, 40),
    },
    optional={
        "temperature": st.sampled_from([0, 0.7, 1.5]),
        "top_p": st.just(0.9),
        "top_k": st.just(20),
        "n": st.integers(1, 3),
        "stop": st.sampled_from(["e", ["lo", "\n"], "world"]),
        "logprobs": st.just(True),
        "return_token_ids": st.booleans(),
        "tools": st.just([TOOL]),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "prediction": st.just({"type": "content", "content": "def hello(world):"}),
        "enable_thinking": st.booleans(),
        "repetition_penalty": st.just(1.2),
        "frequency_penalty": st.just(0.5),
        "min_tokens": st.integers(0, 4),
        "ignore_eos": st.booleans(),
        "logit_bias": st.just({"65": 5, "60": 8, "123": 4}),
    },
)


@settings(max_examples=25)
@given(body=bodies)
def test_speculation_changes_no_message(command: Command, body: dict[str, Any]) -> None:
    """Red when a tree changes anything that a client of chats is told but the metrics."""
    plain = chat(command, speculation="off", **body)
    drafted = chat(command, speculation="always", **body)
    for reply in (plain, drafted):
        for choice in reply["choices"]:
            for number, call in enumerate(choice["message"].get("tool_calls", [])):
                call["id"] = number
    assert _told(plain["choices"]) == _told(drafted["choices"])
    assert plain["usage"]["completion_tokens"] == drafted["usage"]["completion_tokens"]


AGENTS: dict[str, dict[str, Any]] = {
    "/responses": {
        "tools": [{"type": "function", "name": "weather", "parameters": {}}],
        "most": "max_output_tokens",
    },
    "/messages": {
        "tools": [{"name": "weather", "input_schema": {}}],
        "most": "max_tokens",
    },
}


@settings(max_examples=12)
@given(path=st.sampled_from([*AGENTS]), body=bodies, has_tools=st.booleans())
def test_speculation_changes_no_reply_to_an_agent(
    command: Command, path: str, body: dict[str, Any], has_tools: bool
) -> None:
    """Red when a tree changes an item, a block, an end or a count of these APIs."""
    words = AGENTS[path]
    own = ("n", "logprobs", "return_token_ids", "tool_choice", "enable_thinking", "tools")
    asked = {name: value for name, value in body.items() if name not in own}
    asked[words["most"]] = asked.pop("max_tokens")
    if path == "/responses":
        asked["input"] = asked.pop("messages")
    if has_tools:
        asked["tools"] = words["tools"]
    plain, drafted = (
        command.client.post(
            path, body={"model": "tiny", "speculation": how, **asked}, cast_to=object
        )
        for how in ("off", "always")
    )
    assert _written(plain) == _written(drafted)


def _written(reply: Any) -> dict[str, Any]:
    """What is told of a reply, but what is of its time, and how much of a prompt was known."""
    usage = reply["usage"]
    told = {name: usage[name] for name in ("output_tokens", "output_tokens_details")}
    told |= {name: reply.get(name) for name in ("status", "stop_reason", "stop_sequence", "seed")}
    parts = [dict(part) for part in reply.get("output", reply.get("content"))]
    return {**told, "parts": [{**part, "id": "", "call_id": ""} for part in parts]}


def _told(choices: list[Any]) -> list[Any]:
    """What is told of choices, but the figures of log-probabilities, which may round otherwise."""
    tokens = [
        [token["token"] for token in (choice.pop("logprobs") or {"content": []})["content"]]
        for choice in choices
    ]
    return [*choices, tokens]


def test_a_stream_adds_up_to_the_whole_reply(command: Command) -> None:
    """Red when the real engine's steps are folded wrongly."""
    said: list[Any] = [{"role": "user", "content": "def hello("}]
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "extra_body": {"ignore_eos": True}}
    create = command.client.chat.completions.create
    whole = create(model="tiny", messages=said, **body).choices[0].message.content
    chunks = list(create(model="tiny", messages=said, stream=True, **body))
    assert whole and "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
