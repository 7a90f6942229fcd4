"""langchain-openai's chat model, unmodified, where it is installed: `pip install -e .[clients]`."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chats import HERMES
from tests.server.conftest import LiveServer
from tests.server.fakes import Behaviour, blocks

os.environ["LANGSMITH_TRACING"] = "false"  # nothing is to be told to anybody
langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    behaviour = Behaviour(
        lambda request: blocks(f"Well.\n{CALL}", 3), chat_templates={"default": HERMES}, window=4096
    )
    server = LiveServer(behaviour).wait_started().wait_ready()
    yield langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model="fake", seed=1)
    server.server.should_exit = True
    server.join()


def test_it_asks_and_streams(model: Any) -> None:
    """Red when a field that it sends is refused, or a chunk is not one that it adds up."""
    whole = model.invoke([("system", "Be brief."), ("human", "Warm?")])
    assert whole.content.startswith("Well.") and whole.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream("Warm?"))
    assert "".join(piece.content for piece in pieces) == whole.content


def test_it_binds_tools_and_streams_their_calls(model: Any) -> None:
    """Red when our calls are not what it makes its own of."""

    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    bound = model.bind_tools([weather])
    expected = {"name": "weather", "args": {"city": "Oslo"}, "type": "tool_call"}
    [call] = bound.invoke("Warm?").tool_calls
    assert {**call, "id": None} == {**expected, "id": None}
    total: Any = None
    for piece in bound.stream("Warm?"):
        total = piece if total is None else total + piece
    [streamed] = total.tool_calls
    assert {**streamed, "id": None} == {**expected, "id": None}
    assert total.content == "Well."
