"""Calls of tools in a text, in any of the styles that models write them in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.message.json_text import (
    BrokenJsonError,
    JsonObject,
    after_space,
    read_object,
    string_at,
    value_end,
)
from server.message.message import Call
from server.message.styles import CallStyle
from server.message.tags import Schemas, may_be_name, read_name, read_parameters

_ARGUMENTS = ("arguments", "parameters")
_KEYS = {"name", "id", "type", *_ARGUMENTS}
_BEFORE = re.compile(r"\s*\[?\s*")
_BETWEEN = re.compile(r"[\s\],;]*")
# Nothing is given back, or a text of many brackets would be read in ever more ways.
_NAME = re.compile(r"\s*+([\w.\-]++)\s*+(?:\[CALL_ID\]\s*+\w++\s*+)?+(?:\[ARGS\])?+\s*+(?=\{)")
_PART_OF_NAME = re.compile(r"\s*+[\w.\-]*+\s*+(?:\[[A-Z_]*+\]?+[\w\s]*+)*+")


class NoCallError(Exception):
    """What begins here is not a call."""


@dataclass(slots=True)
class Calls:
    """Calls that stand together; `end` is where the rest of the text begins.

    While they are not `is_over`, more of the text may belong to them.
    """

    end: int
    found: list[Call] = field(default_factory=list)
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class CallReader:
    """Reads the calls of these `tools` in this style."""

    style: CallStyle
    tools: Schemas

    def read(self, text: str, at: int) -> Calls:
        """The calls after an opening that ends here; raises NoCallError."""
        if self.style.form == "tags":
            return self._read_tags(text, at)
        start = after_space(text, at)
        if self.style.form == "named" and start < len(text) and text[start] not in "[{":
            return self._read_named(text, at)
        calls = Calls(at)
        at = _after(_BEFORE, text, at)
        while at < len(text) and text[at] == "{":
            written = read_object(text, at)
            try:
                call = self._call(text, written)
            except NoCallError:
                break
            if call is None:
                return calls
            calls.found.append(call)
            if written.end is None:
                calls.end = len(text)
                return calls
            calls.end = at = _after(_BETWEEN, text, written.end)
        return calls if at == len(text) else self._close(text, calls)

    def _close(self, text: str, calls: Calls) -> Calls:
        if not calls.found:
            raise NoCallError
        closing = self.style.closing
        if text.startswith(closing, calls.end):
            calls.end, calls.is_over = calls.end + len(closing), True
        else:
            calls.is_over = not closing.startswith(text[calls.end :])
        return calls

    def _call(self, text: str, written: JsonObject) -> Call | None:
        """The call that an object is; None while that is not known. Raises NoCallError."""
        name = self._name(text, written)
        key = next((key for key in written.fields if key in _ARGUMENTS), None)
        if self.style.is_doubtful and _has_other_use(written.fields):
            raise NoCallError
        arguments = None if key is None else _arguments(text, *written.fields[key])
        if name is not None and arguments is not None:
            return Call(name, arguments)
        if written.end is None:
            return None
        if name is None or written.is_broken or self.style.is_doubtful:
            raise NoCallError
        return Call(name, "{}")

    def _name(self, text: str, written: JsonObject) -> str | None:
        start, end = written.fields.get("name", (0, None))
        if end is None:
            return None
        try:
            name = string_at(text, start, end)
        except BrokenJsonError:
            raise NoCallError from None
        if not name or (self.style.is_doubtful and name not in self.tools):
            raise NoCallError
        return name

    def _read_named(self, text: str, at: int) -> Calls:
        """A call as newer Mistral models write it: its name, and the arguments."""
        named = _NAME.match(text, at)
        if named is None:
            if _PART_OF_NAME.fullmatch(text, at):
                return Calls(at)
            raise NoCallError
        start = named.end()
        try:
            end = value_end(text, start)
        except BrokenJsonError as broken:
            end = broken.at
        stop = len(text) if end is None else end
        return Calls(stop, [Call(named[1], text[start:stop])], is_over=end is not None)

    def _read_tags(self, text: str, at: int) -> Calls:
        calls = Calls(at)
        while (named := read_name(text, calls.end)) is not None:
            name, at = named
            arguments, at, is_over = read_parameters(text, at, self.tools.get(name, {}))
            calls.found.append(Call(name, arguments))
            if not is_over:
                calls.end = len(text)
                return calls
            calls.end = after_space(text, at)
        return calls if may_be_name(text, calls.end) else self._close(text, calls)


def _has_other_use(names: Iterable[str]) -> bool:
    """Whether an object has names that no call has, before it is known to be one."""
    seen = set[str]()
    for name in names:
        if "name" in seen and not seen.isdisjoint(_ARGUMENTS):
            return False
        seen.add(name)
    return not seen <= _KEYS


def _arguments(text: str, start: int, end: int | None) -> str | None:
    """The JSON text of arguments, as far as it is sure; None while nothing is."""
    if start == end:
        raise NoCallError
    if text[start] == "{":
        return text[start:end]
    if end is None:
        return None
    if text[start] == '"':
        try:
            return string_at(text, start, end)
        except BrokenJsonError:
            raise NoCallError from None
    return "{}" if text[start:end] == "null" else text[start:end]


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
