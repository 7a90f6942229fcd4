"""Calls that are written in tags, as Qwen3-Coder and its kin write them.

`<function=name>`, a `<parameter=name>` for each value, and `</function>`; values are plain text, of
which the tool's schema tells what they are.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Never

from server.message.reading import SPACE, Reading, Waits, after

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's parameters, by the tool's name."""

_KINDS = frozenset(["type", "anyOf", "oneOf", "allOf", "$ref"])
"""Keywords that say of what kind a value is."""
_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)>")
_BEGUN = re.compile(r"<function=[^<>\s]*")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_OPENING, _CLOSING, _END = "<parameter=", "</parameter>", "</function>"


def read_name(text: str, at: int) -> tuple[str, int] | None:
    """The name of the function that is called here, and where it ends; None if there is none."""
    found = _FUNCTION.match(text, at)
    return None if found is None else (found[1], found.end())


def may_be_name(text: str, at: int) -> bool:
    """Whether a name may still be written here."""
    body = text[at:].lstrip()
    return "<function=".startswith(body) or _BEGUN.fullmatch(body) is not None


def read_parameters(reading: Reading, at: int, schema: Mapping[str, Any]) -> Waits[int | None]:
    """Tell the JSON text of the arguments; returns where they end, None if they do not.

    What is none of the tags ends them too.
    """
    properties = schema.get("properties")
    types = properties if isinstance(properties, Mapping) else {}
    before = "{"
    while True:
        found = yield from _read_parameter(reading, at)
        if isinstance(found, re.Match):
            name, value = found.groups()
            reading.add(f"{before}{json.dumps(name)}: {_json_of(value, types.get(name))}")
            before, at = ", ", found.end()
            continue
        if found is not None:
            reading.add("{}" if before == "{" else "}")
        return found


def _read_parameter(reading: Reading, at: int) -> Waits[re.Match[str] | int | None]:
    """The next parameter; where they end, if there is none; None if neither is written."""
    seen = at
    while True:
        text = reading.text
        start = after(SPACE, text, at)
        if text.startswith(_END, start):
            return start + len(_END)
        if text.startswith(_OPENING, start):
            # A long value is looked through once.
            if text.find(_CLOSING, seen) >= 0 and (found := _PARAMETER.match(text, at)):
                return found
            seen = max(seen, len(text) - len(_CLOSING))
        elif not any(tag.startswith(text[start : start + len(tag)]) for tag in (_OPENING, _END)):
            return at
        if reading.is_whole:
            return None
        yield


def is_text(schema: object) -> bool:
    """Whether a value of this schema is a text, which stands for itself."""
    if not isinstance(schema, Mapping):
        return True
    if (known := choices_of(schema)) is not None:
        return all(isinstance(each, str) for each in known)
    return schema.get("type") == "string" or _KINDS.isdisjoint(schema)


def choices_of(schema: Mapping[str, Any]) -> list[Any] | None:
    """The only values that a schema allows, if it has a list of them."""
    known = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return known if isinstance(known, list) else None


def _json_of(value: str, schema: object) -> str:
    """A value as JSON: a string, unless its schema wants something else that it can be."""
    if not is_text(schema):
        try:
            parsed = json.loads(value, parse_constant=_refuse)
            written = json.dumps(parsed, ensure_ascii=False, allow_nan=False)
            written.encode()  # half a surrogate pair is no text
            return written
        except (ValueError, RecursionError):
            pass
    return json.dumps(value, ensure_ascii=False)


def _refuse(constant: str) -> Never:
    raise ValueError(constant)
