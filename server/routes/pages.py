"""The API as it describes itself: `GET /openapi.json`, and as a page that needs no script, `/docs`.

To make the description takes most of a second, so it is made in a thread, beside what is streaming.
"""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

router = APIRouter(include_in_schema=False)

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td{border-top:1px solid #8884;padding:.2em 1em .2em 0;"
    "vertical-align:top}code{font-size:.95em}pre{white-space:pre-wrap}"
)


@router.get("/openapi.json")
def openapi(request: Request) -> JSONResponse:
    """The description, for machines."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> str:
    """Every endpoint, and the fields of the bodies that they take."""
    whole = request.app.openapi()
    body = "".join(_sections(whole))
    title = f"{whole['info']['title']} {whole['info']['version']}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
        f'<p>For machines: <a href="/openapi.json">/openapi.json</a></p>{body}</html>'
    )


def _sections(whole: dict[str, Any]) -> Iterator[str]:
    for path, methods in whole["paths"].items():
        for method, endpoint in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            yield f"<p>{escape(endpoint.get('description', ''))}</p>"
            content = endpoint.get("requestBody", {}).get("content", {}).get("application/json")
            if content and (name := content["schema"].get("$ref")):
                schema = whole["components"]["schemas"][name.rpartition("/")[2]]
                yield from _fields(schema)
                yield from _examples(path, schema)


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """A line for each field of a body: its name, what it may be, and what it is if left out."""
    yield f"<p>{escape(schema.get('description', ''))}</p><table>"
    for name, field in schema["properties"].items():
        default = f"default {field['default']!r}" if "default" in field else ""
        yield f"<tr><td><code>{escape(name)}</code><td>{escape(_kind(field))}"
        yield f"<td>{escape(default)}<td>{escape(field.get('description', ''))}"
    yield "</table>"


def _examples(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """What may be sent there, as it is typed in a terminal."""
    for body in schema.get("examples", ()):
        told = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
        kind = "-H 'Content-Type: application/json'"
        words = f"curl $URL{path} {kind} -d '{told}'"
        yield f"<pre>{escape(words)}</pre>"


def _plain(number: float) -> float:
    """1, not 1.0."""
    return int(number) if float(number).is_integer() else number


def _kind(field: dict[str, Any]) -> str:
    """A type with its limits, in words."""
    if options := field.get("anyOf"):
        return " or ".join(_kind(each) for each in options)
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    kind = str(field.get("type", field.get("$ref", "").rpartition("/")[2]))
    if kind == "array":
        kind = f"list of {_kind(field.get('items', {}))}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {_plain(field[name])}" for name, sign in signs.items() if name in field]
    return " ".join([kind, *limits])
