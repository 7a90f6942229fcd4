"""A reply, read as a message."""

from dataclasses import dataclass, field

from server.message.calls import CallReader, NoCallError
from server.message.message import Added, Kind, Message, Part
from server.message.reading import SPACE, Reading, Waits
from server.message.styles import CallStyle, Thinking
from server.message.tags import Schemas
from server.text import num_begun


@dataclass(frozen=True, slots=True)
class ReplyReader:
    """How to read one reply: as content alone, unless it is told of marks of more.

    `is_thinking` is whether the prompt has begun the reasoning already. Calls are read in a `style`
    if the reply may have any, of `tools` by name; where `is_parallel` is not, one alone is told.
    """

    thinking: Thinking | None = None
    is_thinking: bool = False
    style: CallStyle | None = None
    tools: Schemas = field(default_factory=dict)
    is_parallel: bool = True

    @property
    def marks(self) -> frozenset[str]:
        """Whatever is looked for in a text, which special tokens may stand for."""
        found = set[str]()
        if self.thinking is not None:
            found |= {self.thinking.opening, self.thinking.closing}
        if self.style is not None:
            found |= {*self.style.openings, self.style.closing, *self.style.marks}
        return frozenset(found - {""})

    def read(self, text: str, is_whole: bool) -> Message:
        """The message that a text is, or that it will be for certain while it is not whole."""
        telling = Telling(self)
        telling.push(text, is_whole)
        return telling.told


class Telling:
    """Tells a message while it is being written; mutable."""

    def __init__(self, reader: ReplyReader) -> None:
        self._reading = Reading(reader.is_parallel)
        self._steps = _read(reader, self._reading)

    @property
    def told(self) -> Message:
        """The message so far."""
        return self._reading.message

    @property
    def reasoning_end(self) -> int:
        """How much of the text is reasoning and its marks, in characters."""
        return self._reading.reasoning_end

    def push(self, text: str, is_whole: bool) -> list[Added]:
        """What the message has with this piece of text beyond what was told of it."""
        self._reading.text += text
        self._reading.is_whole = is_whole
        next(self._steps, None)
        return self._reading.take()


@dataclass(slots=True)
class _Prose:
    """A part of plain text that is told up to `at`; mutable.

    White space that it ends with is not told, as the text may go on with something else; what it
    begins with is, if it is `as_it_stands`.
    """

    reading: Reading
    kind: Kind
    at: int
    as_it_stands: bool = False
    is_begun: bool = False

    def tell(self, stop: int) -> None:
        """Tell up to here what is certain."""
        text = self.reading.text[self.at : stop].rstrip()
        if text:
            self.at += len(text)
            self._say(text if self.is_begun or self.as_it_stands else text.lstrip())

    def tell_all(self) -> None:
        """Tell whatever there is, white space too."""
        text = self.reading.text[self.at :]
        if text:
            self.at += len(text)
            self._say(text)

    def _say(self, text: str) -> None:
        if self.is_begun:
            self.reading.add(text)
        else:
            self.reading.begin(Part(self.kind, text))
        self.is_begun = True


def _read(reader: ReplyReader, reading: Reading) -> Waits[None]:
    at = 0
    if reader.thinking is not None:
        at = yield from _read_reasoning(reading, reader.thinking, reader.is_thinking)
    if reader.style is not None:
        calls = CallReader(reading, reader.style, reader.tools)
        return (yield from _read_content(reading, at, calls))
    prose = _Prose(reading, "content", at)
    while True:
        prose.tell_all()
        yield


def _read_reasoning(reading: Reading, marks: Thinking, is_thinking: bool) -> Waits[int]:
    """Tell the reasoning, without white space around it; returns where the rest begins."""
    at = yield from reading.after(SPACE, 0)
    while not reading.text.startswith(marks.opening, at):
        if reading.is_whole or not marks.opening.startswith(reading.text[at:]):
            if not is_thinking:
                return 0
            break
        yield
    else:
        at += len(marks.opening)
    prose, seen = _Prose(reading, "reasoning", at), at
    while (end := reading.text.find(marks.closing, seen)) < 0:
        reading.reasoning_end = len(reading.text)
        if reading.is_whole:
            prose.tell(len(reading.text))
            return len(reading.text)
        seen = max(seen, len(reading.text) - len(marks.closing))
        prose.tell(len(reading.text) - num_begun((marks.closing,), reading.text[seen:]))
        yield
    prose.tell(end)
    reading.reasoning_end = end + len(marks.closing)
    return (yield from reading.after(SPACE, reading.reasoning_end))


def _read_content(reading: Reading, at: int, calls: CallReader) -> Waits[None]:
    """Tell the content of a text, and its calls; what is no call is content."""
    prose, has_calls = _Prose(reading, "content", at, as_it_stands=True), False
    is_bare = calls.style.is_bare
    while (opening := (yield from _find_opening(prose, at, calls.style, is_bare))) is not None:
        start, end = opening
        prose.tell(start)
        is_bare = False
        try:
            rest = yield from calls.read(end)
        except NoCallError:
            at = max(end, start + 1)
            continue
        if rest is None:
            break
        at, has_calls = rest, True
        prose = _Prose(reading, "content", rest)
    if has_calls:
        prose.tell(len(reading.text))
    else:
        prose.tell_all()


def _find_opening(
    prose: _Prose, at: int, style: CallStyle, is_bare: bool
) -> Waits[tuple[int, int] | None]:
    """Where the next calls are announced, and where they begin; None in a text that has none.

    What is certain to be none is told meanwhile.
    """
    reading, longest = prose.reading, max(map(len, style.openings))
    if is_bare:
        begin = yield from reading.after(SPACE, at)
        if reading.text[begin : begin + 1] in ("{", "["):
            return at, at
    seen = at
    while True:
        text = reading.text
        places = [(text.find(word, seen), -len(word)) for word in style.openings]
        start, length = min((place for place in places if place[0] >= 0), default=(-1, 0))
        rest = text[start : start + longest]
        may_be_longer = any(word != rest and word.startswith(rest) for word in style.openings)
        if start >= 0 and (reading.is_whole or not may_be_longer):
            return start, start - length
        if reading.is_whole:
            return None
        seen = max(seen, len(text) - longest)
        prose.tell(len(text) - num_begun(sorted(style.openings), text[seen:]))
        yield
