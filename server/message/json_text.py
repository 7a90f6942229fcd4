"""JSON that is still being written: where its values begin and end."""

import json
import re

from server.message.reading import SPACE, Reading, Waits, after

_INSIDE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR = re.compile(r"[-+.\w]+")
# What may stand between the strings and the brackets of a value.
_FILLING = re.compile(r"[-+.\w\s:,]+")
_BEFORE_NAME = re.compile(r"[\s,]*")


class BrokenJsonError(Exception):
    """It is no JSON from the character at `at`."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class JsonValue:
    """A value that begins at `start`; mutable. Of what is nested only brackets and strings count.

    Its `end` is None while there is more to come.
    """

    def __init__(self, reading: Reading, start: int) -> None:
        self.end: int | None = None
        self._reading = reading
        self._at = start
        self._closing: list[str] = []
        self._is_string = False

    def read_on(self) -> int | None:
        """Its end, as far as the text goes now. Raises BrokenJsonError."""
        text = self._reading.text
        while self.end is None and self._at < len(text):
            is_over = self._read_string(text) if self._is_string else self._read_other(text)
            if is_over is None:
                break
            if is_over and not self._closing:
                self.end = self._at
        return self.end

    def _read_string(self, text: str) -> bool | None:
        """The rest of a string; None while it has no end."""
        self._at = after(_INSIDE, text, self._at)
        if text[self._at : self._at + 1] != '"':
            return None
        self._at += 1
        self._is_string = False
        return True

    def _read_other(self, text: str) -> bool | None:
        """A bracket, a quote or what is between; whether something ends with it, if that is known.

        What stands alone ends where something else follows.
        """
        at, character = self._at, text[self._at]
        self._at += 1
        if character == '"':
            self._is_string = True
            return False
        if character in "{[":
            self._closing.append("}" if character == "{" else "]")
            return False
        if character in "}]":
            if not self._closing or self._closing.pop() != character:
                raise BrokenJsonError(at)
            return True
        end = after(_FILLING if self._closing else _SCALAR, text, at)
        if end == at:
            raise BrokenJsonError(at)
        is_open = not self._closing and end == len(text)
        self._at = at if is_open else end
        return None if is_open else True


class JsonObject:
    """An object that begins at `start`: its values' spans by name, and its end; mutable.

    An end is None while there is more to come. One that `is_broken` ends where it is no JSON. Of
    two values by one name the first counts.
    """

    def __init__(self, reading: Reading, start: int) -> None:
        self.fields: dict[str, tuple[int, int | None]] = {}
        self.end: int | None = None
        self.is_broken = False
        self._reading = reading
        self._steps = self._read(start + 1)

    def read_on(self) -> None:
        """Read as far as the text goes now."""
        try:
            next(self._steps, None)
        except BrokenJsonError as broken:
            self.end, self.is_broken = broken.at, True

    def _read(self, at: int) -> Waits[None]:
        while True:
            at = yield from self._next(_BEFORE_NAME, at)
            if self._reading.text[at] == "}":
                self.end = at + 1
                return
            if self._reading.text[at] != '"':
                raise BrokenJsonError(at)
            written = JsonValue(self._reading, at)
            while (end := written.read_on()) is None:
                yield
            name = string_at(self._reading.text, at, end)
            at = yield from self._next(SPACE, end)
            if self._reading.text[at] != ":":
                raise BrokenJsonError(at)
            at = yield from self._next(SPACE, at + 1)
            at = yield from self._read_field(name, at)

    def _read_field(self, name: str, at: int) -> Waits[int]:
        """Note the span of a value while it is written, also of one that breaks off."""
        spans = {} if name in self.fields else self.fields
        written = JsonValue(self._reading, at)
        try:
            while (end := written.read_on()) is None:
                spans[name] = at, None
                yield
        except BrokenJsonError as broken:
            spans[name] = at, broken.at
            raise
        spans[name] = at, end
        return end

    def _next(self, pattern: re.Pattern[str], at: int) -> Waits[int]:
        """The place of the first character that the pattern does not match; it may never come."""
        while (end := after(pattern, self._reading.text, at)) == len(self._reading.text):
            yield
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
