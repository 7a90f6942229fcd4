"""/openapi.json describes all there is, and its examples are answered as it says."""

import json
from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from tests.chats import THINKING
from tests.server.conftest import LiveServer, StartServer, serving
from tests.server.fakes import Behaviour
from tests.server.hostile import API, ENDED_BY_DONE, examples, posts

SCHEMAS = API["components"]["schemas"]
STREAMED = "text/event-stream"
WHOLE = ("/apply-template", "/v1/messages/count_tokens")
"""What takes the bodies of others and streams nothing."""


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    behaviour = Behaviour(chat_templates={"default": THINKING})
    with serving(behaviour, fim_template="{prefix}{suffix}") as server:
        yield server


def test_every_field_of_every_body_is_described() -> None:
    """Red when a field is added without the text below it, or a record without a docstring."""
    assert len(SCHEMAS) > 40
    for name, schema in SCHEMAS.items():
        assert schema.get("description"), name
        for field, told in schema.get("properties", {}).items():
            assert told.get("description"), f"{name}.{field}"


def test_every_reference_leads_somewhere() -> None:
    """Red when what a stream sends names a record that is nowhere."""
    text = json.dumps(API)
    assert '"$defs"' not in text
    for part in text.split('"$ref": "')[1:]:
        where, _, name = part.partition('"')[0].rpartition("/")
        assert where == "#/components/schemas" and name in SCHEMAS


def test_a_stop_is_a_string_or_several_and_a_content_a_text_or_parts() -> None:
    """Red when generated clients take one of the shapes alone."""
    text, texts = {"type": "string"}, {"items": {"type": "string"}, "type": "array"}
    for name in ("stop", "bad_words", "dry_sequence_breakers"):
        assert SCHEMAS["CompletionRequest"]["properties"][name]["anyOf"] == [text, texts]
    kinds = [each.get("type") for each in SCHEMAS["Message"]["properties"]["content"]["anyOf"]]
    assert kinds == ["string", "array", "null"]


def test_keys_are_told_where_they_are_asked_for(start_server: StartServer) -> None:
    """Red when a generated client sends no key, or one to a probe."""
    told = start_server(api_key="k").get("/openapi.json").json()
    assert told["security"] == [{"bearer": []}, {"header": []}]
    assert {*told["components"]["securitySchemes"]} == {"bearer", "header"}
    assert told["paths"]["/health"]["get"]["security"] == []
    assert "security" not in told["paths"]["/v1/completions"]["post"] and "security" not in API


@pytest.mark.parametrize("path", posts())
def test_every_example_is_answered_as_described(live: LiveServer, path: str) -> None:
    """Red when an example is none, or a reply has a field that is not described."""
    endpoint = API["paths"][path]["post"]
    told = endpoint["responses"]
    assert {"200", "4XX", "5XX", "503"} <= told.keys() and "422" not in told
    assert "Retry-After" in told["503"]["headers"] and examples(path)
    for body in examples(path):
        sent = json.dumps(body).encode()
        reply = live.request("POST", path, sent, content_type="application/json")
        assert reply.status == 200, (body, reply.body)
        kind = reply.headers["content-type"].partition(";")[0]
        is_streamed = body.get("stream", False) and path not in WHOLE
        assert (kind == STREAMED) == is_streamed
        content = told["200"]["content"][kind]
        if kind != STREAMED:
            _check(content["schema"], reply.body)
            continue
        events = reply.events()
        chunks = [each for each in events if each != "[DONE]"]
        schema = content["itemSchema"]["properties"]["data"]["contentSchema"]
        assert chunks and (events[-1] == "[DONE]") == (path in ENDED_BY_DONE)
        for chunk in chunks:
            _check(schema, json.dumps(chunk).encode())


def test_every_stream_says_what_it_sends() -> None:
    """Red when an API streams and its chunks are described nowhere."""
    for path in posts():
        [content] = API["paths"][path]["post"]["requestBody"]["content"].values()
        body = SCHEMAS[content["schema"]["$ref"].rpartition("/")[2]]
        if "stream" in body["properties"] and path not in WHOLE:
            told = API["paths"][path]["post"]["responses"]["200"]["content"][STREAMED]
            schema = told["itemSchema"]["properties"]["data"]["contentSchema"]
            assert schema.keys() & {"properties", "anyOf"}


def records(base: type[BaseModel] = BaseModel) -> dict[str, type[BaseModel]]:
    """All that is on the wire, by name."""
    found = {} if base is BaseModel else {base.__name__: base}
    for kind in base.__subclasses__():
        if kind.__module__.startswith(("server.protocol", "pydantic.root_model")):
            found |= records(kind)
    return found


def _check(schema: dict[str, Any], body: bytes) -> None:
    """A reply is one of the records that are described there, and has nothing beside."""
    names = [each.get("title") or each["$ref"] for each in schema.get("anyOf", [schema])]
    kinds = [records()[name.rpartition("/")[2]] for name in names]
    TypeAdapter[Any](reduce(or_, kinds)).validate_json(body, extra="forbid")
