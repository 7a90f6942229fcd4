"""Replies of a form that was asked for: the command with a real engine, and clients unmodified."""

import json
import re
import signal
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from pydantic import BaseModel, Field

from tests.chats import HERMES
from tests.schemas import keeps
from tests.server.command import Command, save_family
from tests.server.conftest import LiveServer, StartServer, wait_until
from tests.server.fakes import Behaviour

SAID: list[Any] = [{"role": "user", "content": "def hello(world):"}]


class Answer(BaseModel):
    """What is asked for: every text of it is short."""

    kind: Literal["question", "statement"]
    is_polite: bool
    score: int = Field(ge=0, le=100)
    word: str = Field(max_length=6)


class Short(BaseModel):
    ok: bool


SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["question", "statement"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
    },
    "required": ["kind", "score"],
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "grade", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "pass-by"}},
]
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = save_family(tmp_path_factory.mktemp("tiny"))
    (folder / "target" / "chat_template.jinja").write_text(HERMES)
    command = Command(folder, "--draft", str(folder / "draft"), "--max-running", "2")
    wait_until(command.is_ready, seconds=60)
    yield command
    command.stop(signal.SIGKILL)


def chat(command: Command, **body: Any) -> Any:
    named = {"model": "tiny", "messages": SAID, "max_tokens": 300, **body}
    return command.client.post("/chat/completions", body=named, cast_to=object)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_the_official_client_parses_a_reply(command: Command, temperature: float) -> None:
    """Red when a reply is not what pydantic's model of it describes, streamed or whole."""
    asked: Any = {"model": "tiny", "messages": SAID, "temperature": temperature, "seed": 4}
    reply = command.client.chat.completions.parse(response_format=Answer, n=3, **asked)
    assert len(reply.choices) == 3
    for choice in reply.choices:
        assert choice.finish_reason == "stop" and isinstance(choice.message.parsed, Answer)
    with command.client.chat.completions.stream(response_format=Answer, **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == reply.choices[0].message.parsed


@pytest.mark.parametrize("speculation", ["off", "always"])
def test_agents_may_force_a_call_and_a_form(command: Command, speculation: str) -> None:
    """Red when what these APIs ask for in words of their own is not kept to, or by chats alone."""
    more: Any = {"extra_body": {"speculation": speculation, "seed": 3}}
    asked: Any = {"model": "tiny", "input": "hello(", "max_output_tokens": 300, **more}
    responses = command.client.responses
    parsed = responses.parse(text_format=Answer, **asked)
    assert isinstance(parsed.output_parsed, Answer)
    tool: Any = {"type": "function", "name": "grade", "parameters": SCHEMA, "strict": False}
    for choice in ("required", {"type": "function", "name": "grade"}):
        [call] = responses.create(tools=[tool], tool_choice=choice, **asked).output
        assert call.type == "function_call" and keeps(json.loads(call.arguments), SCHEMA)
    asked = {"model": "tiny", "messages": SAID, "max_tokens": 300, **more}
    url = str(command.client.base_url).removesuffix("/v1/")
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        tools: Any = [{"name": "grade", "input_schema": SCHEMA}]
        kinds: list[Any] = [{"type": "any"}, {"type": "tool", "name": "grade"}]
        for choice in kinds:
            reply = client.messages.create(tools=tools, tool_choice=choice, **asked)
            [block] = reply.content
            assert block.type == "tool_use" and keeps(block.input, SCHEMA)
            assert reply.stop_reason == "tool_use"
        form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        [block] = client.messages.create(output_config=form, **asked).content
        assert block.type == "text" and keeps(json.loads(block.text), SCHEMA)


def test_instructor_gets_its_model(command: Command) -> None:
    """By a tool that is to be called, which is its usual way."""
    instructor = pytest.importorskip("instructor")
    client = instructor.from_openai(command.client)
    found = client.chat.completions.create(
        model="tiny", messages=SAID, response_model=Short, max_tokens=99, max_retries=0
    )
    assert isinstance(found, Short)


FORMS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": FORMAT}, ""),
    ({"guided_json": SCHEMA}, ""),
    ({"json_schema": SCHEMA}, ""),
    ({"guided_json": json.dumps(SCHEMA)}, ""),
    ({"structured_outputs": {"json": SCHEMA}}, ""),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ""),
    ({"guided_regex": "[ab]{3}-[0-9]{2}"}, "[ab]{3}-[0-9]{2}"),
    ({"structured_outputs": {"regex": "x{2,4}y"}}, "x{2,4}y"),
    ({"regex": "(left|right)!"}, "(left|right)!"),
    ({"guided_choice": ["yes", "no", "not at all"]}, "yes|no|not at all"),
    ({"structured_outputs": {"choice": ["only"]}}, "only"),
    (
        {"grammar": 'root ::= "a" b+ # a comment\nb ::= [0-3]{2} | "-"\n', "max_tokens": 9},
        "a[-0-3]*",
    ),
    ({"guided_grammar": 'root ::= "x" ("y" | "z")'}, "x[yz]"),
    (
        {
            "structured_outputs": {
                "structural_tag": {
                    "format": {
                        "type": "tag",
                        "begin": "<a>",
                        "content": {"type": "json_schema", "json_schema": {"enum": [1, 2]}},
                        "end": "</a>",
                    }
                }
            }
        },
        "<a>[12]</a>",
    ),
]


@pytest.mark.parametrize(("body", "pattern"), FORMS, ids=str)
def test_every_name_for_a_form_is_obeyed_and_speculation_changes_nothing(
    command: Command, body: dict[str, Any], pattern: str
) -> None:
    """In completions and in chats; red when a field is read and not kept."""
    body = {"max_tokens": 300, "temperature": 1.0, "seed": 9, **body}
    for ask in (command.complete, lambda **named: chat(command, **named)):
        replies = [ask(speculation=how, **body)["choices"][0] for how in ("off", "always")]
        texts = [reply.get("text") or reply["message"]["content"] for reply in replies]
        assert texts[0] == texts[1]
        if pattern:
            assert re.fullmatch(pattern, texts[0]), texts
        else:
            assert keeps(json.loads(texts[0]), {**SCHEMA, "type": "object"})
        assert replies[0]["finish_reason"] == ("length" if body["max_tokens"] == 9 else "stop")


def test_a_json_object_is_one(command: Command) -> None:
    """Unless it is cut, which it says: nothing bounds it."""
    reply = chat(command, response_format={"type": "json_object"}, max_tokens=60, temperature=1.0)
    [choice] = reply["choices"]
    assert choice["message"]["content"].startswith("{")
    assert (
        choice["finish_reason"] == "length" or json.loads(choice["message"]["content"]) is not None
    )


@pytest.mark.parametrize("parallel", [True, False])
def test_a_call_can_be_forced(command: Command, parallel: bool) -> None:
    """Of any tool, or of one: red when no call comes, or one of another tool."""
    required = chat(
        command, tools=TOOLS, tool_choice="required", parallel_tool_calls=parallel, seed=3
    )
    [choice] = required["choices"]
    calls = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and not choice["message"].get("content")
    assert len(calls) == 1 or parallel
    named = {"type": "function", "function": {"name": "grade"}}
    [choice] = chat(command, tools=TOOLS, tool_choice=named, seed=3)["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "grade"
    assert keeps(json.loads(call["function"]["arguments"]), SCHEMA)


def test_tools_may_be_called_beside_a_form(command: Command) -> None:
    """Where a call may come, content is of the form or there is none."""
    reply = chat(command, tools=TOOLS, response_format=FORMAT, temperature=1.5, n=4, seed=1)
    for choice in reply["choices"]:
        message = choice["message"]
        if not message.get("tool_calls"):
            assert keeps(json.loads(message["content"]), SCHEMA)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_regex": "(a"}, "guided_regex", "cannot be compiled"),
    ({"guided_regex": "a" * 70000}, "guided_regex", "65536 are the most"),
    ({"guided_json": {"type": "strange"}}, "guided_json", "cannot be compiled"),
    ({"grammar": "root ::= <token>"}, "grammar", "cannot be compiled"),
    ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "'uniqueItems'"),
    ({"json_schema": "{"}, "json_schema", "no JSON"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "two forms"),
    ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "two forms"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "param", "told"), BAD, ids=str)
def test_what_cannot_be_kept_is_refused_before_a_stream_opens(
    command: Command, body: dict[str, Any], param: str, told: str, stream: bool
) -> None:
    """Red when a client gets 200 and then learns that its schema is bad."""
    for ask in (command.complete, lambda **named: chat(command, **named)):
        with pytest.raises(openai.BadRequestError, match=re.escape(told)) as caught:
            ask(stream=stream, **body)
        assert caught.value.param == param


def test_a_refusal_needs_no_seat(start_server: StartServer) -> None:
    """Red when a schema is looked at only once there is a seat for its text."""
    server = start_server(Behaviour(step_seconds=0.2)).wait_ready()
    running = server.open_stream(max_tokens=20)
    running.response().read(10)
    reply = server.complete(stream=True, guided_regex="refuse me")
    assert reply.status == 400 and reply.json()["error"]["param"] == "guided_regex"


def test_texts_go_on_while_a_constraint_is_compiled(live: LiveServer) -> None:
    """Red when whoever compiles one keeps the server from others."""
    live.behaviour.compile_seconds = 0.5
    try:
        slow = live.send(
            "POST",
            "/v1/completions",
            json.dumps({"prompt": "a", "guided_regex": "a"}),
            content_type="application/json",
        )
        assert live.complete().status == 200
        assert not live.behaviour.requests[-1].constraint
        assert slow.response().status == 200
    finally:
        live.behaviour.compile_seconds = 0.0
