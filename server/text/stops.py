"""Stop strings, found in a text that arrives in pieces."""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from types import MappingProxyType

# No text has half a surrogate pair, so that each can stand for a special token among text.
_FIRST_MARK = 0xD800
_MARKS = re.compile("[\ud800-\udfff]+")


class StopMatcher:
    """Finds the stop string that completes first in text that arrives in pieces; mutable.

    Only the longest ending that could still begin a stop string is held back. Special tokens leave
    no text; those that a stop string names are told by their `marks`, and end the text like their
    names. What ended a text is told with it if `includes` says so.
    """

    def __init__(
        self,
        stops: tuple[str, ...],
        specials: Mapping[int, str] = MappingProxyType({}),
        includes: bool = False,
    ) -> None:
        self._includes = includes
        together = "\0".join(stops)
        named = [item for item in specials.items() if item[1] in together]
        named.sort(key=lambda item: -len(item[1]))  # a name may begin another
        self.marks = {at: chr(_FIRST_MARK + i) for i, (at, _) in enumerate(named)}
        self._stops = {stop: stop for stop in stops}
        for stop in stops:
            marked = stop
            for at, name in named:
                marked = marked.replace(name, self.marks[at])
            self._stops[marked] = stop
        patterns = sorted(self._stops)
        self._plain = [pattern for pattern in patterns if pattern == unmarked(pattern)]
        self._marked = [pattern for pattern in patterns if pattern != unmarked(pattern)]
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is now certain; sets `matched`, which ends the text before the match."""
        text = self._held + piece
        found = [*_places(self._plain, unmarked(text)), *_places(self._marked, text)]
        if found:
            _, at, pattern = min(found)
            self.matched = self._stops[pattern]
            self._held = ""
            return unmarked(text)[:at] + (self.matched if self._includes else "")
        keep = len(text) - self._num_held(text)
        self._held = text[keep:]
        return unmarked(text[:keep])

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return unmarked(held)

    def _num_held(self, text: str) -> int:
        """How much of the end of a text may begin a stop string, the marks within it too."""
        held = num_shown = num_begun(self._plain, unmarked(text))
        while len(unmarked(text[len(text) - held :])) < num_shown:
            held += 1
        return max(held, num_begun(self._marked, text))


def _places(patterns: Sequence[str], text: str) -> list[tuple[int, int, str]]:
    """Where each of them that is in a text first ends and begins, marks not counted."""
    found = [(pattern, at) for pattern in patterns if (at := text.find(pattern)) >= 0]
    return [
        (len(unmarked(text[: at + len(pattern)])), len(unmarked(text[:at])), pattern)
        for pattern, at in found
    ]


def num_begun(patterns: Sequence[str], text: str) -> int:
    """The longest ending of a text with which one of them begins; they are sorted."""
    longest = min(len(text), max(map(len, patterns), default=1) - 1)
    for length in range(longest, 0, -1):
        ending = text[-length:]
        place = bisect_left(patterns, ending)
        if place < len(patterns) and patterns[place].startswith(ending):
            return length
    return 0


def unmarked(text: str) -> str:
    """A text without the marks of special tokens."""
    return text if text.isascii() else _MARKS.sub("", text)
