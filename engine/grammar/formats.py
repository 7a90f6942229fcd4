"""From any constraint to one language: xgrammar's structural tags, of which the others are parts.

JSON that is generated has no white space but one space after a comma and a colon. So what a schema
bounds is bounded, and names and marks are certain where they come.
"""

import json
from collections.abc import Iterator
from typing import Any

from engine.errors import InvalidRequestError
from engine.grammar.limits import check_schema, parsed
from engine.request import Constraint

Format = dict[str, Any]

_TOO_WIDE, _CHARACTER = r"[^\"\\\r\n]", r"[^\0-\x1f\"\\]"
"""xgrammar 0.2 lets control characters stand in strings of bounded length, where JSON does not."""


def format_of(constraint: Constraint) -> Format:
    """The format of a constraint; raises InvalidRequestError, or what xgrammar says of it."""
    match constraint.kind:
        case "json_schema":
            return _json(parsed(constraint))
        case "regex":
            return {"type": "regex", "pattern": constraint.source}
        case "grammar":
            return {"type": "grammar", "grammar": constraint.source}
        case "choice":
            return _choice(parsed(constraint))
        case "structural_tag":
            return _tag(parsed(constraint))


def named_tokens(constraint: Constraint) -> frozenset[int]:
    """The ids of tokens that a constraint asks for, as marks that are no text."""
    if constraint.kind != "structural_tag":
        return frozenset()
    return frozenset(_named(parsed(constraint)))


def _named(part: Any) -> Iterator[int]:
    if isinstance(part, dict) and part.get("type") == "token":
        yield from [part["token"]] if isinstance(part.get("token"), int) else []
    if isinstance(part, dict | list):
        for each in part.values() if isinstance(part, dict) else part:
            yield from _named(each)


def _json(schema: Any) -> Format:
    """The text of JSON that a schema allows, as a grammar: formats cannot say how it is spaced."""
    import xgrammar

    check_schema(schema)
    grammar = xgrammar.Grammar.from_json_schema(
        json.dumps(schema), any_whitespace=False, separators=(", ", ": ")
    )
    return {"type": "grammar", "grammar": str(grammar).replace(_TOO_WIDE, _CHARACTER)}


def _choice(choices: Any) -> Format:
    is_list = isinstance(choices, list) and choices
    if not is_list or not all(isinstance(each, str) and each for each in choices):
        raise InvalidRequestError("choices must be a list of strings, none of them empty.")
    elements = [{"type": "const_string", "value": each} for each in dict.fromkeys(choices)]
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": elements}


def _tag(tag: Any) -> Format:
    """The format of a structural tag."""
    if not isinstance(tag, dict) or not isinstance(tag.get("format"), dict):
        raise InvalidRequestError(
            'a structural tag must be {"type": "structural_tag", "format": {...}}.'
        )
    written: Format = _rewritten(tag["format"])
    return written


def _rewritten(part: Any) -> Any:
    """A part of a format, with the JSON in it as it is written here."""
    if isinstance(part, list):
        return [_rewritten(each) for each in part]
    if not isinstance(part, dict):
        return part
    if "json_schema" in part:
        if part.get("type") == "json_schema" and part.get("style", "json") == "json":
            return _json(part["json_schema"])
        check_schema(part["json_schema"])
        return part
    return {key: _rewritten(value) for key, value in part.items()}
