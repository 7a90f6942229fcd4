"""Sources: what may come next, from what is known without a network, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from engine.choosing import Place, scores_of
from engine.drafting.adjacency import Adjacency
from engine.drafting.katz import KatzTable
from engine.drafting.lookup import MAX_MATCH, History, Match, SuffixLookup
from engine.drafting.stage import Scored
from engine.economy import Kind
from engine.request import GRAMMAR, PREDICTION
from engine.text import Text

_CAPACITY = 1 << 16
"""Tokens of all texts that a look-up remembers, unless those being written are more."""

_EULER = 0.5772
_MATCH_DOUBT = 3.0
"""A match of m tokens is trusted m / (m + this): 0.5 for the shortest, 0.9 for a long one.

Only until the economy has seen how such matches fare.
"""
_LONG = 12

CERTAIN = 0.0
"""The log probability of what cannot but come."""


class Claim(NamedTuple):
    """That `token` comes next, with this log probability, calibrated with others of its kind.

    `match` is where it was found, if it was looked up.
    """

    token: int
    kind: Kind
    logprob: float
    match: Match | None = None


class Source(Protocol):
    """What a stage without a network knows; it goes by the name of its stage.

    Whatever it lacks of a text it reads there, before it is asked.
    """

    name: str

    def is_of_use(self, texts: Sequence[Text]) -> bool:
        """Whether it can have anything to say of these texts."""

    def read(self, text: Text) -> None:
        """Take in what the text has got since it was last read."""

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """What may come at a place, the best first; `tail` are the tokens before it."""

    def follow(self, claim: Claim) -> Claim | None:
        """What comes after one of its claims, if it is sure enough to say so without a search."""

    def learn(self, scored: Scored) -> None:
        """Remember of what was scored for the stage above, or by it, what is of use."""


class _Source:
    """The base: nothing to read, to follow or to learn."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_of_use(self, texts: Sequence[Text]) -> bool:
        """It always may be."""
        return True

    def read(self, text: Text) -> None:
        """It reads no text."""

    def follow(self, claim: Claim) -> Claim | None:
        """It has to be asked."""
        return None

    def learn(self, scored: Scored) -> None:
        """It learns nothing."""


class GrammarSource(_Source):
    """What a text's grammar leaves alone: it will come, and nobody else need be asked."""

    def __init__(self) -> None:
        super().__init__(GRAMMAR)

    def is_of_use(self, texts: Sequence[Text]) -> bool:
        """Where any of them has a grammar."""
        return any(text.sampling.grammar is not None for text in texts)

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """The only token that may follow, if there is but one."""
        only = place.only
        return () if only is None else (Claim(only, (self.name,), CERTAIN),)


class _Matches(_Source):
    """The base of those that look something up."""

    def follow(self, claim: Claim) -> Claim | None:
        """What comes after a long match, where that goes on."""
        if claim.match is None or claim.match.length < _LONG:
            return None
        return self._claim(claim.match.follow())

    def _claim(self, match: Match | None) -> Claim | None:
        if match is None:
            return None
        kind = (self.name, "look-up", (match.length + 1).bit_length())
        trust = math.log(match.length / (match.length + _MATCH_DOUBT))
        return Claim(match.token, kind, trust, match)


class PredictionSource(_Matches):
    """What a request itself expects its reply to be: looked up for this text alone.

    It follows the end of the prompt, as if it had been the reply before.
    """

    def __init__(self) -> None:
        super().__init__(PREDICTION)
        self._read: dict[int, tuple[Text, SuffixLookup]] = {}

    def is_of_use(self, texts: Sequence[Text]) -> bool:
        """Where any of them comes with a prediction."""
        return any(text.request.prediction for text in texts)

    def read(self, text: Text) -> None:
        """Index the prediction, once."""
        if self._lookup_of(text) is None:
            lookup, (*before, last) = SuffixLookup(), text.request.prompt[-MAX_MATCH:]
            lookup.extend(History(before), [last, *text.request.prediction])
            self._read[text.seat] = text, lookup

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """What followed the longest match."""
        lookup = self._lookup_of(place.text)
        claim = None if lookup is None else self._claim(lookup.find(tail))
        return () if claim is None else (claim,)

    def _lookup_of(self, text: Text) -> SuffixLookup | None:
        known, lookup = self._read.get(text.seat, (None, None))
        return lookup if known is text else None


class LookupSource(_Matches):
    """The live look-up in what texts have come to so far, earlier ones among them.

    Texts that are written at once have `most_tokens` at most: none of them is forgotten.
    """

    def __init__(self, name: str, most_tokens: int = 0, min_match: int = 3) -> None:
        super().__init__(name)
        self._lookup = SuffixLookup(min_match, capacity=max(_CAPACITY, 2 * most_tokens))
        self._read: dict[int, tuple[Text, History]] = {}

    def read(self, text: Text) -> None:
        """Index what it has got; earlier texts stay within reach."""
        known, history = self._read.get(text.seat, (None, None))
        if history is not None and known is not None:
            self._lookup.extend(history, known.tokens[len(history) :])
        if known is not text:
            self._read[text.seat] = text, self._lookup.begin(text.tokens, text.salt)

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """What followed the longest match."""
        claim = self._claim(self._lookup.find(tail, place.text.salt))
        return () if claim is None else (claim,)


class TableSource(_Source):
    """A Katz table: the likeliest `children` after the last two tokens."""

    def __init__(self, name: str, table: KatzTable, children: int) -> None:
        super().__init__(name)
        self._table, self._children = table, children

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """The likeliest as the text asks for them."""
        before, last = (-1, *tail)[-2:]
        known = self._table.continuations(before, last)
        best = likeliest(place, *known, self._children)
        return [
            Claim(token, (self.name, "table", rank), logprob)
            for rank, (token, logprob) in enumerate(best.items())
        ]


class RecycleSource(_Source):
    """What was likeliest after the same two tokens when they were last scored, or the same one.

    Token Recycling (Luo et al., arXiv 2408.08696), with probabilities: so what may come is ranked
    as the target would rank it, under the request's own noise.
    """

    def __init__(self, name: str, children: int) -> None:
        super().__init__(name)
        self._adjacency, self._children = Adjacency(), children

    def claims(self, place: Place, tail: Sequence[int]) -> Sequence[Claim]:
        """The likeliest of what is remembered, as the text asks for them."""
        order, known = self._adjacency.after(tail, place.text.salt)
        if known is None:
            return []
        best = likeliest(place, *known, self._children)
        return [
            Claim(token, (self.name, order, rank), logprob)
            for rank, (token, logprob) in enumerate(best.items())
        ]

    def learn(self, scored: Scored) -> None:
        """Every row is remembered, whether the text went there or not."""
        self._adjacency.learn(scored)


def likeliest(
    place: Place, tokens: Sequence[int], logprobs: Sequence[float], count: int
) -> Mapping[int, float]:
    """The best few of some likely tokens by what is asked for at a place, with log estimates.

    Where noise decides among them, the estimate is the softmax of the perturbed log-probabilities.
    The best of the tokens not listed is itself Gumbel, around the logarithm of their mass.
    """
    if place.text.is_greedy and not place.text.sampling.is_edited:
        return dict(zip(tokens[:count], logprobs, strict=False))
    scores = scores_of(place, tokens, logprobs)
    rest = math.log(max(1e-6, 1.0 - sum(math.exp(lp) for lp in logprobs)))
    if not (params := place.text.sampling.params).is_greedy:
        rest = rest / params.temperature + _EULER
    top = max(rest, *scores)
    total = math.exp(rest - top) + sum(math.exp(score - top) for score in scores)
    normaliser = top + math.log(total)
    best = sorted(zip(scores, tokens, strict=True), reverse=True)[:count]
    return {token: score - normaliser for score, token in best if score > -math.inf}
