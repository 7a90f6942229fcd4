"""The live look-up: where did the last few tokens stand before, and what followed them there?

The idea of prompt lookup and SuffixDecoding (Oliaro et al., arXiv 2411.04975), over the prompt, the
output so far and, within bounds, earlier requests. It repeats what was said; it learns nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

MAX_MATCH = 32
"""Tokens that are compared at most."""


class History(list[int]):
    """The tokens of one text; those of one salt are found by texts with the same salt alone."""

    salt: str | None = None


_Places = dict[tuple[str | int | None, ...], list[tuple[History, int]]]
"""Where each run of tokens of texts of a salt ends."""


class Match(NamedTuple):
    """The token at a place of a history, before which `length` tokens are those at hand."""

    token: int
    length: int
    history: History
    place: int

    def follow(self) -> "Match | None":
        """What came after it, where its own token is the next one; no search is needed."""
        history, place = self.history, self.place + 1
        if place >= len(history):
            return None
        return Match(history[place], min(self.length + 1, MAX_MATCH), history, place)


class SuffixLookup:
    """An index of every run of `min_match` tokens, compared backwards to find the longest match.

    Of each run the latest `max_places` places are tried. The index has two generations: when the
    younger one holds half of `capacity`, in tokens, it becomes the older, which is dropped whole:
    nothing is indexed anew to forget something.
    """

    def __init__(
        self,
        min_match: int = 3,
        max_places: int = 8,
        capacity: int = 1 << 16,
    ) -> None:
        self._min_match = min_match
        self._max_places = max_places
        self._capacity = capacity
        self._size = 0
        self._places: _Places = {}
        self._older: _Places = {}

    def begin(self, tokens: Sequence[int], salt: str | None = None) -> History:
        """The history of another text."""
        begun = History()
        begun.salt = salt
        self.extend(begun, tokens)
        return begun

    def extend(self, history: History, tokens: Sequence[int]) -> None:
        """Add tokens that a text now has."""
        if self._size > self._capacity // 2:
            self._older, self._places, self._size = self._places, {}, 0
        start = len(history)
        history.extend(tokens)
        self._size += len(tokens)
        self._index(history, start)

    def find(self, tail: Sequence[int], salt: str | None = None) -> Match | None:
        """The token after the longest earlier match of `tail`'s end."""
        best: tuple[History, int] | None = None
        longest = 0
        run = (salt, *tail[-self._min_match :])
        places = self._places.get(run, ())
        if self._older and len(places) < self._max_places:
            places = [*self._older.get(run, ()), *places]
        for history, place in reversed(places[-self._max_places :]):
            if place >= len(history):
                continue
            length = self._match_length(history, place, tail)
            if length > longest:
                best, longest = (history, place), length
                if length >= MAX_MATCH:
                    break
        return None if best is None else Match(best[0][best[1]], longest, *best)

    def _index(self, history: History, start: int) -> None:
        """Note where every run ends that ends at or behind this place."""
        size, limit = self._min_match, self._max_places
        for end in range(max(start + 1, size), len(history) + 1):
            places = self._places.setdefault((history.salt, *history[end - size : end]), [])
            places.append((history, end))
            if len(places) > 2 * limit:
                del places[:limit]

    def _match_length(self, history: History, place: int, tail: Sequence[int]) -> int:
        length, limit = self._min_match, min(MAX_MATCH, len(tail), place)
        while length < limit and history[place - 1 - length] == tail[-1 - length]:
            length += 1
        return length
