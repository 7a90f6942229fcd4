"""Random JSON schemas of which every text is of bounded length, and what keeps them."""

import random
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "age", "tag", "id", "list", "unit price", "on")


def random_schema(rng: random.Random, depth: int = 2) -> Schema:
    """Any schema of a few kinds, with schemas in it to this depth."""
    leaves = (_string, _integer, _enum, _const, _flag)
    nodes = (_object, _object, _list, _any_of)
    return rng.choice([*leaves, *nodes] if depth else leaves)(rng, depth)


def random_object(rng: random.Random, depth: int = 2) -> Schema:
    """One of an object, as clients' are."""
    return _object(rng, depth)


def _string(rng: random.Random, depth: int) -> Schema:
    if rng.random() < 0.3:
        return {"type": "string", "pattern": rng.choice(["^[a-c]{1,4}$", "^(ab|ba)?[0-9]$"])}
    return {"type": "string", "maxLength": rng.randrange(1, 6)}


def _integer(rng: random.Random, depth: int) -> Schema:
    low = rng.randrange(-30, 30)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(0, 200)}


def _enum(rng: random.Random, depth: int) -> Schema:
    return {"enum": rng.sample(["ab", "a", 7, None, True, "long name", -1], rng.randrange(1, 4))}


def _const(rng: random.Random, depth: int) -> Schema:
    return {"const": rng.choice(["fixed", 12, False])}


def _flag(rng: random.Random, depth: int) -> Schema:
    return {"type": rng.choice(["boolean", "null"])}


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(NAMES, rng.randrange(1, 4))
    required = names if rng.random() < 0.6 else rng.sample(names, rng.randrange(len(names)))
    return {
        "type": "object",
        "properties": {name: random_schema(rng, max(0, depth - 1)) for name in names},
        "required": required,
        "additionalProperties": False,
    }


def _list(rng: random.Random, depth: int) -> Schema:
    least = rng.randrange(0, 2)
    most = least + rng.randrange(1, 3)
    items = random_schema(rng, max(0, depth - 1))
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _any_of(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [random_schema(rng, max(0, depth - 1)) for _ in range(2)]}


def keeps(value: Any, schema: Schema) -> bool:
    """Whether a value is what such a schema describes; `pattern` is left to who knows it."""
    if "anyOf" in schema:
        return any(keeps(value, each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        known = schema.get("enum", [schema.get("const")])
        return any(type(value) is type(each) and value == each for each in known)
    match schema["type"]:
        case "string":
            return isinstance(value, str) and len(value) <= schema.get("maxLength", 9)
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            return is_whole and schema["minimum"] <= value <= schema["maximum"]
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            is_list = isinstance(value, list)
            return (
                is_list
                and all(keeps(each, schema["items"]) for each in value)
                and (schema["minItems"] <= len(value) <= schema["maxItems"])
            )
    known = schema["properties"]
    return (
        isinstance(value, dict)
        and {*schema["required"]} <= {*value} <= {*known}
        and all(keeps(each, known[name]) for name, each in value.items())
    )
