"""Calls that are written in tags, as Qwen3-Coder and its kin write them.

`<function=name>`, a `<parameter=name>` for each value, and `</function>`; values are plain text, of
which the tool's schema tells what they are.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Never

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's parameters, by the tool's name."""

_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)>")
_BEGUN = re.compile(r"<function=[^<>\s]*")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_END = re.compile(r"\s*</function>")


def read_name(text: str, at: int) -> tuple[str, int] | None:
    """The name of the function that is called here, and where it ends; None if there is none."""
    found = _FUNCTION.match(text, at)
    return None if found is None else (found[1], found.end())


def may_be_name(text: str, at: int) -> bool:
    """Whether a name may still be written here."""
    body = text[at:].lstrip()
    return "<function=".startswith(body) or _BEGUN.fullmatch(body) is not None


def read_parameters(text: str, at: int, schema: Mapping[str, Any]) -> tuple[str, int, bool]:
    """The JSON text of the arguments, as far as they are written; where they end; if they are over.

    What is none of the tags ends them too.
    """
    properties = schema.get("properties")
    types = properties if isinstance(properties, Mapping) else {}
    told: list[str] = []
    while (found := _PARAMETER.match(text, at)) is not None:
        name, value = found.groups()
        told.append(f"{json.dumps(name)}: {_json_of(value, types.get(name))}")
        at = found.end()
    written = "{" + ", ".join(told)
    if (end := _END.match(text, at)) is not None:
        return written + "}", end.end(), True
    body = text[at:].lstrip()
    if any(tag.startswith(body) or body.startswith(tag) for tag in ("<parameter=", "</function>")):
        return written if told else "", at, False
    return written + "}", at, True


def _json_of(value: str, schema: object) -> str:
    """A value as JSON: a string, unless its schema wants something else that it can be."""
    kind = schema.get("type", "string") if isinstance(schema, Mapping) else "string"
    if kind != "string":
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
