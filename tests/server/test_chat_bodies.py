"""Bodies of chats as clients write them, and as nobody should."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chats import THINKING
from tests.server.conftest import LiveServer, serving
from tests.server.fakes import Behaviour

USER = {"role": "user", "content": "Hello"}
USAGE = {"include_usage": True}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object"}, "strict": None},
}
CALLED = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": ""}}],
}
FOUND = {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "y"}]}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    behaviour = Behaviour(chat_templates={"default": THINKING}, window=2048)
    with serving(behaviour) as server:
        yield server


@pytest.mark.parametrize(
    "body",
    [
        # What web pages with a slider for everything send.
        {"messages": [USER], "temperature": 0.8, "top_p": 1, "frequency_penalty": 0, "stop": []},
        {"messages": [USER], "max_completion_tokens": 1000, "user": "u", "metadata": {"a": "b"}},
        # Agents in editors: parts, empty lists, usage at the end, effort.
        {
            "messages": [PARTS],
            "tools": [],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {"messages": [PARTS], "max_tokens": -1, "reasoning_effort": "low", "prompt_cache_key": "k"},
        {"messages": [USER, CALLED, FOUND], "tools": [TOOL], "parallel_tool_calls": True},
        # Libraries that write every field, null where it is not set.
        {"messages": [{**USER, "name": None}], "tools": None, "tool_choice": None, "n": None},
        {"messages": [USER], "temperature": None, "logprobs": False, "top_logprobs": None},
        {"messages": [USER], "response_format": {"type": "text"}, "seed": 7.0, "store": False},
        # Those that know vLLM or llama-server.
        {
            "messages": [USER],
            "top_k": 20,
            "min_p": 0,
            "repetition_penalty": 1,
            "cache_prompt": True,
        },
        {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}, "n_predict": 8},
    ],
    ids=str,
)
def test_what_clients_send_is_answered(live: LiveServer, body: dict[str, Any]) -> None:
    """Red when a habit of a client that changes nothing locks it out."""
    reply = live.chat(**body)
    assert reply.status == 200, reply.body
