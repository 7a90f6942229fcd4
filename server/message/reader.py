"""A reply, read as a message."""

from dataclasses import dataclass, field

from server.message.calls import CallReader, NoCallError
from server.message.message import Call, Message
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
        reasoning, rest = "", text
        if self.thinking is not None:
            reasoning, rest = _reasoning(text, self.thinking, self.is_thinking, is_whole)
        if self.style is None:
            return Message(rest, reasoning)
        content, calls = _read_calls(rest, CallReader(self.style, self.tools), is_whole)
        return Message(content, reasoning, tuple(calls if self.is_parallel else calls[:1]))


def _reasoning(text: str, marks: Thinking, is_thinking: bool, is_whole: bool) -> tuple[str, str]:
    """The reasoning of a text, without white space around it, and the rest."""
    body = text.lstrip()
    if body.startswith(marks.opening):
        body = body[len(marks.opening) :]
    elif not is_whole and marks.opening.startswith(body):
        return "", ""
    elif not is_thinking:
        return "", text
    reasoning, mark, rest = body.partition(marks.closing)
    if mark:
        return reasoning.strip(), rest.lstrip()
    if not is_whole:
        body = body[: len(body) - num_begun((marks.closing,), body)]
    return body.strip(), ""


def _read_calls(text: str, reader: CallReader, is_whole: bool) -> tuple[str, list[Call]]:
    """The content of a text, and its calls; what is no call is content."""
    told, calls, at = [""], list[Call](), 0
    while (opening := _opening(text, at, reader.style, is_whole)) is not None:
        start, end = opening
        told[-1] += text[at:start]
        try:
            found = reader.read(text, end)
        except NoCallError:
            at = max(end, start + 1)
            told[-1] += text[start:at]
            continue
        is_held = not found.is_over
        at = found.end if found.found else start
        if found.found:
            calls += found.found
            told.append("")
        if is_held and not is_whole:
            return _content(told, is_whole), calls
        if is_held:
            break
    held = 0 if is_whole else num_begun(sorted(reader.style.openings), text[at:])
    told[-1] += text[at : len(text) - held]
    return _content(told, is_whole), calls


def _opening(text: str, at: int, style: CallStyle, is_whole: bool) -> tuple[int, int] | None:
    """Where the next calls are announced, and where they begin; None if nowhere."""
    if style.is_bare and at == 0:
        body = text.lstrip()
        if body[:1] in ("{", "["):
            return 0, 0
    places = [(text.find(word, at), -len(word)) for word in style.openings]
    start, length = min((place for place in places if place[0] >= 0), default=(-1, 0))
    if start < 0:
        return None
    rest = text[start:]
    if not is_whole and any(word != rest and word.startswith(rest) for word in style.openings):
        return None
    return start, start - length


def _content(told: list[str], is_whole: bool) -> str:
    """What is said around calls; white space that may end at one is left out."""
    if is_whole and len(told) == 1:
        return told[0]
    first, *others = told
    later = [part.strip() for part in others]
    return "\n".join(part for part in (first.rstrip(), *later) if part)
