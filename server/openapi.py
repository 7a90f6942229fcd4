"""`/openapi.json`: what routes say of themselves, and what FastAPI has no words for.

That is which records a stream sends, how keys are given, and what every route may refuse.
"""

from collections.abc import Collection
from threading import Lock
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from server.protocol import ErrorReply

Schema = dict[str, Any]
Answers = dict[int | str, dict[str, Any]]

_EVENTS = "text/event-stream"
_REFERENCE = "#/components/schemas/{model}"
_KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "As OpenAI's clients send it."},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_WAIT = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}

REFUSALS: Answers = {
    "4XX": {"model": ErrorReply, "description": "What cannot be answered, and why."},
    "5XX": {"model": ErrorReply, "description": "A failure of the server's own."},
}
"""What every route may answer."""
UNAVAILABLE: Answers = {
    503: {
        "model": ErrorReply,
        "description": "The model is loading, or the queue is full: ask again later.",
        "headers": _WAIT,
    }
}
"""What a route that needs the model may answer."""


def refused_with(envelope: type[BaseModel], answers: Answers) -> Answers:
    """Answers of a route whose API has an envelope of its own for errors."""
    return {
        code: answer if code == 200 else {**answer, "model": envelope}
        for code, answer in (REFUSALS | answers).items()
    }


def events_of(*chunks: type[BaseModel]) -> Answers:
    """The answer of a route that streams such chunks where a body asks for it."""
    schemas = [
        chunk.model_json_schema(mode="serialization", ref_template=_REFERENCE) for chunk in chunks
    ]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    told = "The reply, whole or with `stream` as events of these chunks."
    return {200: {"description": told, "content": {_EVENTS: {"itemSchema": event}}}} | UNAVAILABLE


class Application(FastAPI):
    """The application, which describes itself in full; `open_paths` need no key, if any do."""

    def __init__(self, has_keys: bool, open_paths: Collection[str], **options: Any) -> None:
        super().__init__(responses=REFUSALS, **options)
        self._has_keys = has_keys
        self._open_paths = open_paths
        self._lock = Lock()

    def openapi(self) -> Schema:
        """The whole description, made once, by whichever thread asks first."""
        with self._lock:
            if self.openapi_schema is None:
                whole = super().openapi()
                _gather_definitions(whole, whole["components"]["schemas"])
                self._add_keys(whole)
            return super().openapi()

    def _add_keys(self, whole: Schema) -> None:
        """Say where one of the keys is asked for; without keys nowhere."""
        if not self._has_keys:
            return
        whole["components"]["securitySchemes"] = _KEYS
        whole["security"] = [{name: []} for name in _KEYS]
        for path in whole["paths"].keys() & set(self._open_paths):
            for endpoint in whole["paths"][path].values():
                endpoint["security"] = []


def _gather_definitions(node: Any, schemas: Schema) -> None:
    """Move what a schema defines for itself, as pydantic writes it, to where all look for it."""
    if isinstance(node, dict):
        for name, schema in node.pop("$defs", {}).items():
            schemas.setdefault(name, schema)
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            _gather_definitions(each, schemas)
