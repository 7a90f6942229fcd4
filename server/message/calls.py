"""Calls of tools in a text, in any of the styles that models write them in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from server.message.json_text import BrokenJsonError, JsonObject, JsonValue, string_at
from server.message.message import Part
from server.message.reading import SPACE, Reading, Waits
from server.message.styles import CallStyle
from server.message.tags import Schemas, may_be_name, read_name, read_parameters

_ARGUMENTS = ("arguments", "parameters")
_KEYS = {"name", "id", "type", *_ARGUMENTS}
_BEFORE = re.compile(r"\s*\[?\s*")
_BETWEEN = re.compile(r"[\s\],;]*")
_LONGEST_NAME = 256
"""Of a name before arguments, with the marks around it."""


class NoCallError(Exception):
    """What begins here is not a call."""


@dataclass(frozen=True, slots=True)
class CallReader:
    """Tells the calls of these `tools` in this style.

    What reads calls returns where the rest of the text begins; None where the text is over before
    it is known whether there are any. It raises NoCallError where there are none.
    """

    reading: Reading
    style: CallStyle
    tools: Schemas

    def read(self, at: int) -> Waits[int | None]:
        """The calls after an opening that ends here."""
        if self.style.form == "tags":
            return (yield from self._read_tags(at))
        start = yield from self.reading.after(SPACE, at)
        if self.style.form == "named" and self.reading.text[start : start + 1] not in (
            "",
            "[",
            "{",
        ):
            return (yield from self._read_named(at))
        return (yield from self._read_objects(at))

    def _read_objects(self, at: int) -> Waits[int | None]:
        rest: int | None = None
        at = yield from self.reading.after(_BEFORE, at)
        while self.reading.text[at : at + 1] == "{":
            try:
                end = yield from self._read_object(at)
            except NoCallError:
                break
            if end is None:
                return rest
            at = rest = yield from self.reading.after(_BETWEEN, end)
        return rest if at == len(self.reading.text) else (yield from self._close(rest))

    def _close(self, rest: int | None) -> Waits[int]:
        """The closing, if it is there, belongs to the calls."""
        if rest is None:
            raise NoCallError
        closing = self.style.closing
        while (tail := self.reading.text[rest : rest + len(closing)]) != closing:
            if self.reading.is_whole or not closing.startswith(tail):
                return rest
            yield
        return rest + len(closing)

    def _read_object(self, at: int) -> Waits[int | None]:
        """A call that is an object, or one that breaks off."""
        written = JsonObject(self.reading, at)
        told: int | None = None
        while True:
            written.read_on()
            told = self._begin(written) if told is None else told
            if told is not None:
                told = self._tell_arguments(written, told)
            if written.end is not None:
                return written.end
            if self.reading.is_whole:
                return None if told is None else len(self.reading.text)
            yield

    def _begin(self, written: JsonObject) -> int | None:
        """Tell a call's name; returns where its arguments begin, None while it may be no call."""
        name = self._name(written)
        span = _arguments(written)
        if self.style.is_doubtful and _has_other_use(written.fields):
            raise NoCallError
        other = None if span is None else self._other_arguments(*span)
        is_known = span is not None and (other is not None or self.reading.text[span[0]] == "{")
        if name is None or not is_known:
            if written.end is None:
                return None
            if name is None or written.is_broken or self.style.is_doubtful:
                raise NoCallError
            other = "{}"
        self.reading.begin(Part("call", other or "", name))
        if other is not None or span is None:
            return len(self.reading.text)
        return span[0]

    def _tell_arguments(self, written: JsonObject, told: int) -> int:
        """Tell what has been written of arguments that are an object."""
        span = _arguments(written)
        text = self.reading.text
        stop = len(text) if span is None or span[1] is None else span[1]
        self.reading.add(text[told:stop])
        return max(told, stop)

    def _other_arguments(self, start: int, end: int | None) -> str | None:
        """The JSON text of arguments that are no object; None while it is not known."""
        text = self.reading.text
        if start == end:
            raise NoCallError
        if text[start] == "{" or end is None:
            return None
        if text[start] == '"':
            try:
                return string_at(text, start, end)
            except BrokenJsonError:
                raise NoCallError from None
        return "{}" if text[start:end] == "null" else text[start:end]

    def _name(self, written: JsonObject) -> str | None:
        start, end = written.fields.get("name", (0, None))
        if end is None:
            return None
        try:
            name = string_at(self.reading.text, start, end)
        except BrokenJsonError:
            raise NoCallError from None
        if not name or (self.style.is_doubtful and name not in self.tools):
            raise NoCallError
        return name

    def _read_named(self, at: int) -> Waits[int | None]:
        """A call by a name before its arguments, as newer Mistral models write it."""
        while "{" not in (begun := self.reading.text[at : at + _LONGEST_NAME]):
            if len(begun) == _LONGEST_NAME:
                raise NoCallError
            if self.reading.is_whole:
                return None
            yield
        named = self.style.name.match(self.reading.text, at)
        if named is None:
            raise NoCallError
        self.reading.begin(Part("call", name=named[1]))
        end = yield from self._read_value(named.end())
        if end is None:
            return len(self.reading.text)
        for ending in self.style.endings:
            end = yield from self._after_ending(ending, end)
        return end

    def _read_value(self, at: int) -> Waits[int | None]:
        """Tell arguments while they are written; returns where they end, None if they do not."""
        written = JsonValue(self.reading, at)
        while True:
            try:
                end = written.read_on()
            except BrokenJsonError as broken:
                end = broken.at
            stop = len(self.reading.text) if end is None else end
            self.reading.add(self.reading.text[at:stop])
            at = stop
            if end is not None or self.reading.is_whole:
                return end
            yield

    def _after_ending(self, ending: str, at: int) -> Waits[int]:
        """Where an ending that may stand here does."""
        start = yield from self.reading.after(SPACE, at)
        while (tail := self.reading.text[start : start + len(ending)]) != ending:
            if self.reading.is_whole or not ending.startswith(tail):
                return at
            yield
        return start + len(ending)

    def _read_tags(self, at: int) -> Waits[int | None]:
        rest: int | None = None
        while True:
            while (named := read_name(self.reading.text, at)) is None:
                if not may_be_name(self.reading.text, at):
                    return (yield from self._close(rest))
                if self.reading.is_whole:
                    return rest
                yield
            name, at = named
            self.reading.begin(Part("call", name=name))
            end = yield from read_parameters(self.reading, at, self.tools.get(name, {}))
            if end is None:
                return len(self.reading.text)
            at = rest = yield from self.reading.after(SPACE, end)


def _has_other_use(names: Iterable[str]) -> bool:
    """Whether an object has names that no call has, before it is known to be one."""
    seen = set[str]()
    for name in names:
        if "name" in seen and not seen.isdisjoint(_ARGUMENTS):
            return False
        seen.add(name)
    return not seen <= _KEYS


def _arguments(written: JsonObject) -> tuple[int, int | None] | None:
    """Where the arguments of a call are written, by either name."""
    return next((span for name, span in written.fields.items() if name in _ARGUMENTS), None)
