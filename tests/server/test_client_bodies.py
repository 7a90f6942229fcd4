"""Bodies as editors and web pages send them, down to their habits: none locks its sender out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chats import HERMES
from tests.server.conftest import LiveServer, serving
from tests.server.fakes import Behaviour

FIM = "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n<|fim_middle|>"
SYSTEM = {"role": "system", "content": "You are a coding agent."}
USER = {"role": "user", "content": "Hello"}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
        "strict": False,
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "read_file", "arguments": '{"path": "a.py"}'},
}
COMPLETIONS, CHAT, INFILL = "/v1/completions", "/v1/chat/completions", "/infill"

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    # Fourteen stop strings and its own prompt; nulls where nothing is set.
    "Zed, edit prediction": (
        COMPLETIONS,
        {
            "model": "fake",
            "prompt": FIM,
            "max_tokens": 64,
            "temperature": None,
            "environment": None,
            "stop": [
                *("<|endoftext|>", "<|file_separator|>", "<|fim_pad|>", "<|fim_prefix|>"),
                *("<|fim_middle|>", "<|fim_suffix|>", "<fim_prefix>", "<fim_middle>"),
                *("<fim_suffix>", "<PRE>", "<SUF>", "<MID>", "[PREFIX]", "[SUFFIX]"),
            ],
        },
    ),
    "Continue, autocomplete": (
        COMPLETIONS,
        {
            "model": "fake",
            "prompt": FIM,
            "max_tokens": 4096,
            "temperature": 0.01,
            "stop": [
                *("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
                *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "/src/", "#- coding: utf-8"),
            ],
            "stream": True,
        },
    ),
    "Continue, chat": (
        CHAT,
        {"model": "fake", "messages": [SYSTEM, USER], "max_tokens": 100, "tools": [TOOL], **USAGE},
    ),
    "Tabby": (
        COMPLETIONS,
        {
            "model": "fake",
            "prompt": "def add(a, b):\n    return ",
            "suffix": "\n",
            "max_tokens": 64,
            "temperature": 0.1,
            "seed": 17_250_000_000_000_000_000,
            "presence_penalty": 0.0,
            "stream": True,
        },
    ),
    "llama.vscode": (
        INFILL,
        {
            "id_slot": 0,
            "input_prefix": "def add(a, b):\n",
            "input_suffix": "\n",
            "input_extra": [{"text": "x = 1", "filename": "x.py", "time": 1_725_000_000_000}],
            "prompt": "    return ",
            "n_predict": 24,
            "n_cmpl": 3,
            "top_k": 40,
            "top_p": 0.99,
            "stream": False,
            "samplers": ["top_k", "top_p", "infill"],
            "cache_prompt": True,
            "t_max_prompt_ms": 500,
            "t_max_predict_ms": 2500,
        },
    ),
    "Open WebUI": (
        CHAT,
        {"model": "fake", "messages": [USER], "temperature": 0.8, "top_k": 40, **USAGE},
    ),
    "Open WebUI, a title": (
        CHAT,
        {"model": "fake", "messages": [USER], "stream": False, "max_completion_tokens": 100},
    ),
    "LibreChat": (
        CHAT,
        {
            "model": "fake",
            "messages": [USER],
            "user": "64f",
            "temperature": 1,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            **USAGE,
        },
    ),
    "Cline": (
        CHAT,
        {
            "model": "fake",
            "messages": [
                SYSTEM,
                {"role": "user", "content": [{"type": "text", "text": "Read it."}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "x = 1"},
            ],
            "temperature": 0,
            "max_completion_tokens": 100,
            "reasoning_effort": None,
            "tools": [TOOL],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            **USAGE,
        },
    ),
    "aider": (
        CHAT,
        {"model": "fake", "messages": [SYSTEM, USER], "temperature": 0, "stream": True},
    ),
}


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    behaviour = Behaviour(chat_templates={"default": HERMES}, window=2048)
    template = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
    with serving(behaviour, fim_template=template) as server:
        yield server


@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES)
def test_it_is_answered(live: LiveServer, path: str, body: dict[str, Any]) -> None:
    """Red when a habit of a client locks it out, or its stream does not end as it should."""
    sent = json.dumps(body).encode()
    reply = live.request("POST", path, sent, content_type="application/json")
    assert reply.status == 200, reply.body
    if not body.get("stream"):
        assert b"hello" in reply.body
        assert isinstance(reply.json(), list) == (body.get("n_cmpl", 1) > 1)
        return
    *chunks, end = reply.events()
    assert end == "[DONE]" and "hello" in str(chunks)
    assert ("usage" in chunks[-1]) == ("stream_options" in body)
