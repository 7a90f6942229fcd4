"""`return_trace`: a stream tells the tree of every step; bounded, and only if it is asked to."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.conftest import LiveServer, Reply, StartServer, wait_until
from tests.server.fakes import Behaviour, blocks, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
TEXT = "hello world, hello world, hello world"
TEMPLATE = "{% for each in messages %}{{ each.content }}{% endfor %}"


def with_template() -> Behaviour:
    return Behaviour(chat_templates={"default": TEMPLATE})


def text_of(choice: Any) -> str:
    text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
    assert isinstance(text, str)
    return text


def choices_of(reply: Reply) -> list[Any]:
    assert reply.status == 200, reply.body
    return [choice for event in reply.events()[:-1] for choice in event["choices"]]


def steps_of(choices: list[Any]) -> list[Any]:
    return [step for choice in choices for step in choice["trace"]]


ASK: dict[str, Callable[..., Reply]] = {
    "completion": lambda server, **body: server.complete(**body),
    "chat": lambda server, **body: server.chat(**body),
}


@pytest.mark.parametrize("api", ASK)
def test_a_stream_tells_every_step_and_its_tokens_add_up_to_the_text(
    start_server: StartServer, api: str
) -> None:
    """Red when a step or a token is left out, or is told with another's text or origin."""
    server = start_server(with_template()).wait_ready()
    choices = choices_of(ASK[api](server, stream=True, return_trace=True, max_tokens=100))
    steps = steps_of(choices)
    tokens = [token for step in steps for token in step["tokens"]]
    assert "".join(token["text"] for token in tokens) == TEXT
    assert "".join(text_of(choice) for choice in choices) == TEXT
    assert [token["id"] for token in tokens] == TOKENIZER.encode(TEXT)
    assert [step["step"] for step in steps] == [*range(1, 1 + len(blocks(TEXT)))]


def test_a_step_is_told_node_by_node(live: LiveServer) -> None:
    """Red when the wire loses or turns round what the engine has told of a tree."""
    [_, step, *_] = steps_of(choices_of(live.complete(stream=True, return_trace=True)))
    first, bonus = blocks(TEXT)[1]
    nodes = step["nodes"]
    root = {"parent": None, "depth": 0, "origin": "", "estimate": 1.0}
    assert nodes[0] == {"id": 299, "text": TOKENIZER.token_text(299), **root}
    path = {"parent": 0, "depth": 1, "origin": "draft", "estimate": 0.8}
    assert nodes[1] == {"id": first, "text": TOKENIZER.token_text(first), **path}
    assert {node["parent"] for node in nodes[1:]} == {0} and len(nodes) == step["num_nodes"] == 8
    assert (step["path"], step["num_accepted"]) == ([1], 1)
    assert step["bonus"] == {"id": bonus, "text": TOKENIZER.token_text(bonus)}
    assert (step["place"], step["nodes_by_text"]) == (0, [8, 3])
    times = [step[f"{part}_ms"] for part in ("step", "drafting", "target", "choosing")]
    assert times == [4.0, 1.0, 2.0, 0.5]
    assert [(stage["name"], stage["passes"]) for stage in step["stages"]] == [
        ("draft", 2),
        ("ngram", 6),
    ]


def test_a_stop_string_ends_the_tokens_of_a_step_where_the_text_ends(live: LiveServer) -> None:
    """Red when tokens are told that the reply has not kept, or the last one's text is lost."""
    body: dict[str, Any] = {"stop": ", h", "max_tokens": 100}
    choices = choices_of(live.complete(stream=True, return_trace=True, **body))
    tokens = [token for step in steps_of(choices) for token in step["tokens"]]
    usage = live.complete(**body).json()["usage"]
    assert len(tokens) == usage["completion_tokens"]
    assert "".join(token["text"] for token in tokens).startswith("hello world, h")


def test_choices_count_their_own_steps(start_server: StartServer) -> None:
    server = start_server(Behaviour(num_seats=2)).wait_ready()
    choices = choices_of(server.complete(stream=True, return_trace=True, n=2, max_tokens=6))
    for index in range(2):
        steps = steps_of([choice for choice in choices if choice["index"] == index])
        assert [step["step"] for step in steps] == [1, 2, 3]


@pytest.mark.parametrize("api", ASK)
def test_who_does_not_ask_is_told_nothing_and_the_engine_neither(
    start_server: StartServer, api: str
) -> None:
    """Red when every stream carries the trees, or every engine makes them."""
    server = start_server(with_template()).wait_ready()
    choices = choices_of(ASK[api](server, stream=True))
    assert choices and not any("trace" in choice for choice in choices)
    assert not server.behaviour.requests[-1].is_traced


@pytest.mark.parametrize("api", ASK)
def test_it_is_of_streams_alone(start_server: StartServer, api: str) -> None:
    server = start_server(with_template()).wait_ready()
    refused = ASK[api](server, return_trace=True)
    assert (refused.status, refused.json()["error"]["param"]) == (400, "return_trace")


def test_a_long_reply_leaves_nodes_out_and_still_tells_its_steps(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a reply grows without bound, or its tokens are lost with the nodes."""
    monkeypatch.setattr("server.translate.trace.MAX_NODES", 20)
    asked = live.complete(stream=True, return_trace=True, max_tokens=100)
    steps = steps_of(choices_of(asked))
    assert [len(step["nodes"]) for step in steps] == [8, 8, 8] + [0] * (len(steps) - 3)
    assert all(step["num_nodes"] == 8 and step["tokens"] for step in steps)
    assert all(step["path"] == [] for step in steps[3:])


def test_a_seat_tells_its_tokens_and_the_nodes_of_its_last_step(start_server: StartServer) -> None:
    """Red when a seat that is taken shows another's figures, or one that is free shows any."""
    behaviour = Behaviour(num_seats=2, step_seconds=0.05)
    server = start_server(behaviour).wait_ready()
    running = server.open_stream(max_tokens=100)
    running.response().read(1)
    taken, free = server.get("/slots").json()
    assert taken["num_nodes"] == 8 and taken["num_tokens"] > 1
    assert (free["num_nodes"], free["num_tokens"], free["is_processing"]) == (0, 0, False)
    running.close()
    wait_until(lambda: not any(slot["num_nodes"] for slot in server.get("/slots").json()))
