"""The live look-up: where did the last few tokens stand before, and what followed them there?

The idea of prompt lookup and SuffixDecoding (Oliaro et al., arXiv 2411.04975), over the prompt, the
output so far and, within bounds, earlier requests. It repeats what was said; it learns nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

_SEPARATOR = -1


class Match(NamedTuple):
    """The token at a place of the history, before which `length` tokens are those at hand."""

    token: int
    length: int
    place: int


class SuffixLookup:
    """An index of every run of `min_match` tokens, compared backwards to find the longest match.

    Of each run the latest `max_places` places are tried. `capacity` bounds the history in tokens;
    it is enforced between texts, so that no step pays for it.
    """

    def __init__(
        self,
        min_match: int = 3,
        max_match: int = 32,
        max_places: int = 8,
        capacity: int = 1 << 16,
    ) -> None:
        self.max_match = max_match
        self._min_match = min_match
        self._max_places = max_places
        self._capacity = capacity
        self._history: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}

    def start_text(self, tokens: Sequence[int]) -> None:
        """Begin another text, which no match may span; of too many, forget the oldest."""
        if len(self._history) > self._capacity:
            kept = self._history[-self._capacity // 2 :]
            self._history, self._places = [], {}
            self.extend(kept)
        self.extend([_SEPARATOR, *tokens])

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens that the text now has."""
        history, size = self._history, self._min_match
        for token in tokens:
            history.append(token)
            run = tuple(history[-size:])
            if len(run) == size and _SEPARATOR not in run:
                places = self._places.setdefault(run, [])
                places.append(len(history))
                if len(places) > 2 * self._max_places:
                    del places[: self._max_places]

    def find(self, tail: Sequence[int]) -> Match | None:
        """The token after the longest earlier match of `tail`'s end."""
        history, best, longest = self._history, 0, 0
        places = self._places.get(tuple(tail[-self._min_match :]), ())
        for place in reversed(places[-self._max_places :]):
            if place >= len(history) or history[place] == _SEPARATOR:
                continue
            length = self._match_length(place, tail)
            if length > longest:
                best, longest = place, length
                if length >= self.max_match:
                    break
        return Match(history[best], longest, best) if longest else None

    def follow(self, match: Match) -> Match | None:
        """What came after a match, whose own token then matches too."""
        place = match.place + 1
        if place >= len(self._history) or self._history[place] == _SEPARATOR:
            return None
        return Match(self._history[place], min(match.length + 1, self.max_match), place)

    def _match_length(self, place: int, tail: Sequence[int]) -> int:
        history = self._history
        length, limit = self._min_match, min(self.max_match, len(tail), place)
        while length < limit and history[place - 1 - length] == tail[-1 - length]:
            length += 1
        return length
