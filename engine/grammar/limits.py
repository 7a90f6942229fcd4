"""What is not compiled: what is too large to be looked at, and what would not be kept."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import InvalidRequestError
from engine.request import Constraint

MOST_CHARACTERS = 2**16
"""Of a constraint's source."""
_DEEPEST = 64
"""Brackets in brackets: whoever compiles it calls itself for each."""

_UNENFORCED = frozenset(
    [
        *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
        *("uniqueItems", "contains", "minContains", "maxContains", "multipleOf"),
        *("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems"),
    ]
)
"""Keywords of JSON schemas that no grammar here keeps: with them a reply might be invalid."""
_NAMED = frozenset(["properties", "patternProperties", "$defs", "definitions"])
"""Keywords whose value has schemas by names of the schema's own."""
_DATA = frozenset(["const", "enum", "default", "examples", "required", "title", "description"])
"""Keywords whose value is no schema."""
_ANNOTATIONS = frozenset(
    [
        *("default", "examples", "title", "description", "$comment", "$schema", "$id"),
        *("$defs", "definitions", "deprecated", "readOnly", "writeOnly", "discriminator"),
    ]
)
"""Keywords that forbid nothing."""
_ALONE, _LISTED = frozenset(["$ref", "anyOf", "oneOf"]), frozenset(["enum", "const"])
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_ESCAPED = re.compile(r'"|\\[\\nrtfvbcux0]')
"""What a pattern cannot have, since JSON writes it in another way than the pattern does."""


def check_source(constraint: Constraint) -> None:
    """Raise InvalidRequestError for what is too large to be compiled."""
    source = constraint.source
    if not source:
        raise InvalidRequestError(f"the {name_of(constraint)} is empty: say what a reply may be.")
    if len(source) > MOST_CHARACTERS:
        raise InvalidRequestError(
            f"the {name_of(constraint)} has {len(source)} characters, and {MOST_CHARACTERS} are "
            "the most: send a simpler one."
        )
    if _depth(source) > _DEEPEST:
        raise InvalidRequestError(
            f"the {name_of(constraint)} has brackets more than {_DEEPEST} deep: give parts of it "
            "names, and refer to them."
        )


def is_too_large(constraint: Constraint) -> bool:
    """Whether `check_source` refuses it."""
    try:
        check_source(constraint)
    except InvalidRequestError:
        return True
    return False


def parsed(constraint: Constraint) -> Any:
    """The JSON of a constraint that is some; raises InvalidRequestError."""
    try:
        return json.loads(constraint.source)
    except ValueError as error:
        told = f"the {name_of(constraint)} is no JSON: {error}"
        raise InvalidRequestError(told) from None


def check_schema(schema: Any) -> None:
    """Raise InvalidRequestError for a schema that replies would not be sure to keep."""
    if not isinstance(schema, dict | bool):
        kind = type(schema).__name__
        raise InvalidRequestError(f"a JSON schema must be an object, and this is a {kind}.")
    for keyword in _keywords(schema):
        raise InvalidRequestError(
            f"the JSON schema's {keyword!r} cannot be enforced here, as it stands: leave it out, "
            "and check it when you have the reply."
        )


def name_of(constraint: Constraint) -> str:
    """What to call it."""
    return "list of choices" if constraint.kind == "choice" else constraint.kind.replace("_", " ")


def _keywords(schema: Any) -> Iterator[str]:
    """The keywords in a schema that cannot be kept."""
    if isinstance(schema, list):
        for each in schema:
            yield from _keywords(each)
    if not isinstance(schema, dict):
        return
    yield from _unenforced(schema)
    for keyword, value in schema.items():
        if keyword in _UNENFORCED and value is not False:
            yield keyword
        elif keyword in _NAMED and isinstance(value, dict):
            for each in value.values():
                yield from _keywords(each)
        elif keyword not in _DATA:
            yield from _keywords(value)


def _unenforced(schema: dict[str, Any]) -> Iterator[str]:
    """What of a schema's own keywords cannot be kept together, or as it is."""
    options, beside = schema.get("allOf"), {*schema} - _ANNOTATIONS
    if isinstance(options, list) and (len(options) > 1 or len(beside) > 1):
        yield "allOf"
    # What stands beside these is passed over.
    yield from (keyword for keyword in _ALONE & beside if len(beside) > 1)
    reference = schema.get("$ref", "#")
    if isinstance(reference, str) and reference != "#" and not reference.startswith("#/"):
        yield "$ref"
    for keyword in _LISTED & beside:
        values = schema[keyword] if keyword == "enum" else [schema["const"]]
        if beside - {keyword, "type"} or not _are_of(values, schema.get("type")):
            yield keyword
    required, properties = schema.get("required"), schema.get("properties", {})
    if isinstance(required, list) and isinstance(properties, dict):
        yield from ["required"] if {*map(str, required)} - {*properties} else []
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _ESCAPED.search(pattern):
        yield "pattern"
    if not {"pattern", "format"}.isdisjoint(schema):
        yield from {"minLength", "maxLength"}.intersection(schema)


def _are_of(values: Any, kind: Any) -> bool:
    """Whether all values are of a schema's type, if it has one."""
    if kind is None or not isinstance(values, list):
        return True
    kinds = kind if isinstance(kind, list) else [kind]
    known = tuple(each for name in kinds for each in _TYPES.get(str(name), ()))
    return all(
        isinstance(each, known) and (bool in known or not isinstance(each, bool)) for each in values
    )


def _depth(source: str) -> int:
    """How deep brackets of any kind stand in brackets, in strings too."""
    deepest = depth = 0
    for character in source:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest
