"""A text that is read as a message while it is written.

Whatever reads is a generator: it goes as far as the text does, tells what is certain by then, and
waits for more where it has to. So no character is looked at once for every piece that follows it,
and what a text has told does not depend on how it came in pieces.
"""

import re
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

from server.message.message import Added, Message, Part

T = TypeVar("T")
Waits = Generator[None, None, T]
"""Yields where it needs more text than there is; a text that is whole has no more."""

SPACE = re.compile(r"\s*")


def after(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where what the pattern matches here ends; here, if it matches nothing."""
    found = pattern.match(text, at)
    return found.end() if found else at


class Reading:
    """The text so far, whether it is whole, and what it has told; mutable.

    Where calls are not `is_parallel`, the first alone is told. `reasoning_end` is where the mark
    that ends the reasoning does, in characters; where the text does, while it is reasoning.
    """

    def __init__(self, is_parallel: bool = True) -> None:
        self.text = ""
        self.is_whole = False
        self.reasoning_end = 0
        self._is_parallel = is_parallel
        self._is_left_out = False
        self._parts: list[Part] = []
        self._texts: list[list[str]] = []
        self._ranks = Counter[str]()
        self._added: list[Added] = []

    @property
    def message(self) -> Message:
        """All that has been told."""
        told = zip(self._parts, self._texts, strict=True)
        return Message(tuple(replace(part, text="".join(texts)) for part, texts in told))

    def begin(self, part: Part) -> None:
        """Tell of another part."""
        rank = self._ranks[part.kind]
        self._is_left_out = part.kind == "call" and rank > 0 and not self._is_parallel
        if not self._is_left_out:
            self._ranks[part.kind] += 1
            self._parts.append(replace(part, text=""))
            self._texts.append([part.text])
            self._added.append(Added(len(self._parts) - 1, rank, part, True))

    def add(self, text: str) -> None:
        """Tell more of the last part."""
        if self._is_left_out or not text:
            return
        self._texts[-1].append(text)
        number, last = len(self._parts) - 1, self._added[-1] if self._added else None
        if last is not None and last.number == number:
            self._added[-1] = replace(last, part=replace(last.part, text=last.part.text + text))
        else:
            part = self._parts[-1]
            rank = self._ranks[part.kind] - 1
            self._added.append(Added(number, rank, replace(part, text=text), False))

    def take(self) -> list[Added]:
        """What has been told since it was asked for last."""
        added, self._added = self._added, []
        return added

    def after(self, pattern: re.Pattern[str], at: int) -> Waits[int]:
        """Where what the pattern matches here ends, once something follows or nothing will."""
        while (end := after(pattern, self.text, at)) == len(self.text) and not self.is_whole:
            yield
        return end
