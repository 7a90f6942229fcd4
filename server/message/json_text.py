"""JSON that is still being written: where its values begin and end."""

import json
import re
from dataclasses import dataclass, field

_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]+")
# What may stand between the strings and the brackets of a value.
_FILLING = re.compile(r"[-+.\w\s:,]+")


class BrokenJsonError(Exception):
    """It is no JSON from the character at `at`."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


@dataclass(slots=True)
class JsonObject:
    """An object as far as it is written: the spans of its values by name, and its end.

    An end is None while there is more to come. One that `is_broken` ends where it is no JSON.
    """

    fields: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    end: int | None = None
    is_broken: bool = False


def after_space(text: str, at: int) -> int:
    """The next character that is no white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def value_end(text: str, at: int) -> int | None:
    """Where the value that begins here ends; None while it does not. Raises BrokenJsonError."""
    if text[at] in "{[":
        return _nested_end(text, at)
    found = (_STRING if text[at] == '"' else _SCALAR).match(text, at)
    if found is None and text[at] != '"':
        raise BrokenJsonError(at)
    is_open = found is None or (text[at] != '"' and found.end() == len(text))
    return None if found is None or is_open else found.end()


def _nested_end(text: str, at: int) -> int | None:
    """The same of an object or a list, whose brackets and strings alone are looked at."""
    closing: list[str] = []
    while at < len(text):
        character = text[at]
        if character in "{[":
            closing.append("}" if character == "{" else "]")
            at += 1
        elif character in "}]":
            if closing.pop() != character:
                raise BrokenJsonError(at)
            at += 1
            if not closing:
                return at
        else:
            found = (_STRING if character == '"' else _FILLING).match(text, at)
            if found is None and character != '"':
                raise BrokenJsonError(at)
            at = len(text) if found is None else found.end()
    return None


def read_object(text: str, at: int) -> JsonObject:
    """The object that begins here."""
    found = JsonObject()
    try:
        _read_fields(text, at + 1, found)
    except BrokenJsonError as broken:
        found.end, found.is_broken = broken.at, True
    return found


def _read_fields(text: str, at: int, found: JsonObject) -> None:
    while (at := after_space(text, at)) < len(text):
        if text[at] == "}":
            found.end = at + 1
            return
        if text[at] == ",":
            at += 1
            continue
        if text[at] != '"':
            raise BrokenJsonError(at)
        if (name_end := value_end(text, at)) is None:
            return
        name = string_at(text, at, name_end)
        if (at := after_space(text, name_end)) == len(text):
            return
        if text[at] != ":":
            raise BrokenJsonError(at)
        if (at := after_space(text, at + 1)) == len(text):
            return
        end = _field_end(text, at, name, found)
        if end is None:
            return
        at = end


def _field_end(text: str, at: int, name: str, found: JsonObject) -> int | None:
    """Note a field's value, also of one that breaks off; of two by one name the first counts."""
    try:
        end = value_end(text, at)
    except BrokenJsonError as broken:
        found.fields.setdefault(name, (at, broken.at))
        raise
    found.fields.setdefault(name, (at, end))
    return end


def string_at(text: str, start: int, end: int) -> str:
    """The string that is written here; raises BrokenJsonError if it is none."""
    try:
        value = json.loads(text[start:end], strict=False)
        if isinstance(value, str):
            value.encode()  # half a surrogate pair, which JSON can escape, is no text
            return value
    except ValueError:
        pass
    raise BrokenJsonError(start)
