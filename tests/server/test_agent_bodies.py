"""Bodies that nobody should send to the APIs for agents."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.anthropic import MessagesRequest
from server.protocol.responses import ResponsesRequest
from tests.chats import THINKING
from tests.server.conftest import LiveServer, serving
from tests.server.fakes import Behaviour


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    behaviour = Behaviour(chat_templates={"default": THINKING}, window=2048)
    with serving(behaviour) as server:
        yield server


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
texts = st.sampled_from(["a", "", "{", '{"a": 1}', "x-anthropic-y", "\ud800"])


def shaped(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An item or a block as it should be, but for one field at times."""
    told = {name: st.just(value) for name, value in fields.items() if isinstance(value, str)}
    others = {name: value for name, value in fields.items() if not isinstance(value, str)}
    whole = st.fixed_dictionaries({"type": st.just(kind), **told, **others})
    broken = st.dictionaries(st.sampled_from(["type", *fields]), values, min_size=1, max_size=1)
    return whole | whole | whole | st.builds(lambda one, other: one | other, whole, broken)


roles = st.sampled_from(["user", "assistant", "system"])
lines = texts | st.lists(shaped("input_text", text=texts), max_size=2)
items = (
    shaped("message", role=roles, content=lines)
    | shaped("reasoning", summary=st.just([]), content=st.none() | texts)
    | shaped("function_call", call_id="c", name="f", arguments=texts)
    | shaped("function_call_output", call_id="c", output=lines)
    | shaped("custom_tool_call", call_id="c", name="f", input=texts)
    | shaped("custom_tool_call_output", call_id="c", output=texts)
)
blocks = (
    shaped("text", text=texts)
    | shaped("thinking", thinking=texts, signature="s")
    | shaped("redacted_thinking", data="d")
    | shaped("tool_use", id="c", name="f", input=st.just({}) | values)
    | shaped("tool_result", tool_use_id="c", content=texts, is_error=st.booleans())
)
turns = st.fixed_dictionaries({"role": roles, "content": texts | st.lists(blocks, max_size=3)})
tools = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "namespace", "web_search"])},
    optional={
        "name": st.sampled_from(["f", "", "a b", "f" * 128]),
        "description": texts,
        "parameters": values,
        "input_schema": st.just({}) | values,
        "format": values,
        "tools": st.just([{"type": "custom", "name": "f" * 128}]) | values,
    },
)
choices = values | st.fixed_dictionaries({"type": st.sampled_from(["auto", "any", "tool"])})


def bodies(kind: Any, conversation: str, said: Any) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([*kind.model_fields, "other"])
    return st.tuples(
        st.just({conversation: [{"role": "user", "content": "a"}], "max_tokens": 9}),
        st.fixed_dictionaries(
            {},
            optional={
                conversation: st.lists(said, min_size=1, max_size=4),
                "tools": st.lists(tools, max_size=3),
                "tool_choice": choices,
            },
        ),
        st.just({}) | st.dictionaries(names, values, max_size=1),
    ).map(lambda told: told[0] | told[1] | told[2])


cases = st.tuples(st.just("/v1/responses"), bodies(ResponsesRequest, "input", items)) | st.tuples(
    st.sampled_from(["/v1/messages", "/v1/messages/count_tokens"]),
    bodies(MessagesRequest, "messages", turns),
)


@settings(max_examples=150)
@given(case=cases)
def test_no_body_makes_the_server_fail(live: LiveServer, case: tuple[str, dict[str, Any]]) -> None:
    """Red when what nobody foresaw is our fault: the answer is a reply, or says what is wrong."""
    path, body = case
    sent = json.dumps({**body, "stream": False}).encode()
    reply = live.request("POST", path, sent, content_type="application/json")
    assert reply.status in (200, 400, 404), reply.body
    if reply.status != 200:
        error = reply.json()
        assert error["error"]["message"] and (error.get("type") == "error") == ("mess" in path)
