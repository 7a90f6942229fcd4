"""The n-gram stage: a Katz trigram table and a live look-up. No model, no pass, microseconds.

Below a draft model it is the paper's draft² (Spector & Ré, section 3.2): it guesses what the draft
will say next, so that one draft pass evaluates several levels. Alone it drafts for any target.
"""

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from engine.choosing import Place, scores_of
from engine.config import NgramStageConfig
from engine.drafting.katz import KatzTable
from engine.drafting.lookup import History, Match, SuffixLookup
from engine.economy import Step
from engine.scorer import TreeScorer
from engine.text import Text

_EULER = 0.5772
_MATCH_DOUBT = 3.0
"""A match of m tokens is trusted m / (m + this): 0.5 for the shortest, 0.9 for a long one.

Only until the economy has seen how such matches fare.
"""
_LONG = 12


class _Candidate(NamedTuple):
    """A node that might be added: of equal scores the shallower one goes first.

    No two of one `call` are alike in all before it, so matches are never compared.
    """

    cost: float
    depth: int
    parent: int
    token: int
    estimate: float
    call: int
    match: Match | None


class NgramDrafter:
    """Proposes by table and look-up together, best-first, ranked under the request's own noise."""

    def __init__(self, config: NgramStageConfig, table: KatzTable | None, name: str) -> None:
        self.name, self.budget = name, config.budget
        self._children = config.children
        self._table = table
        self._lookup = SuffixLookup() if config.lookup else None
        self._read: dict[int, tuple[Text, History]] = {}

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Add of each text the at most `budget` likeliest nodes below `leaves`; recommend them all.

        Nodes that are too unlikely to pay are left out, and all are while guessing does not pay.
        """
        turn = step.turn(self.name)
        if not turn.may_ask():
            return []
        for text in step.texts:
            self._catch_up(text)
        started = time.perf_counter()
        tree, scores = step.tree, step.tree.scores()
        prospects = step.prospects(budget * len(step.texts))
        queue: list[_Candidate] = []
        for leaf in leaves:
            queue += self._candidates(step, leaf, -scores[leaf], None)
        heapq.heapify(queue)
        proposed: dict[int, None] = {}
        expected, left = float(len(step.texts)), [budget] * len(step.texts)
        while queue:
            best = heapq.heappop(queue)
            chance, place = math.exp(-best.cost), tree.texts[best.parent]
            if not left[place]:
                continue
            is_good = prospects.are_good(chance, len(proposed), expected)
            if not is_good and not step.texts[place].is_free:
                if not any(text.is_free for text in step.texts):
                    break
                continue
            node = tree.add(best.parent, best.token, best.estimate, self.name)
            if node in proposed:  # a leaf may lie below another leaf
                continue
            proposed[node] = None
            expected += chance
            left[place] -= 1
            if left[place]:
                for candidate in self._candidates(step, node, best.cost, best.match):
                    heapq.heappush(queue, candidate)
        turn.guess((time.perf_counter() - started) * 1e3)
        return list(proposed)

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """Nothing to time: it has no network."""
        return {}

    def scorers(self) -> Mapping[str, TreeScorer]:
        """None: it has no network."""
        return {}

    def _catch_up(self, text: Text) -> None:
        """Index what a text has got since it was last read; earlier texts stay within reach."""
        if self._lookup is None:
            return
        known, history = self._read.get(text.seat, (None, None))
        if history is not None and known is not None:
            self._lookup.extend(history, known.tokens[len(history) :])
        if known is not text:
            self._read[text.seat] = text, self._lookup.begin(text.tokens)

    def _candidates(
        self, step: Step, node: int, cost: float, match: Match | None
    ) -> list[_Candidate]:
        """The likeliest next tokens after a node, whose score is -`cost`.

        `match` proposed the node, if it is given.
        """
        if not step.can_extend(node):
            return []
        tree, depth = step.tree, step.tree.depths[node]
        text = step.texts[tree.texts[node]]
        turn = step.turn(self.name)
        turn.num_passes += 1
        call = turn.num_passes
        # A long match is followed without searching, or asking the table, at every token.
        match = self._followed(match)
        table: dict[int, float] = {}
        if match is None:
            path = tree.path_tokens(node)
            match = self._found(text, path)
            table = self._from_table(Place(text, tree, node), path)
        believe, name = step.claims.believe, self.name
        found: list[_Candidate] = []
        if match is not None:
            token, length, *_ = match
            trust = math.log(length / (length + _MATCH_DOUBT))
            kind = (name, "look-up", length.bit_length(), token in table)
            estimate = believe(node, token, kind, max(trust, table.get(token, trust)))
            found.append(_Candidate(cost - estimate, depth, node, token, estimate, call, match))
        for rank, (token, claim) in enumerate(table.items()):
            if match is None or token != match.token:
                kind = (name, "table", rank, match is not None)
                estimate = believe(node, token, kind, claim)
                found.append(_Candidate(cost - estimate, depth, node, token, estimate, call, None))
        found.sort(key=_cost)
        return found[: self._children]

    def _followed(self, match: Match | None) -> Match | None:
        """What comes after a long match, where the text goes on there."""
        if self._lookup is None or match is None or match.length < _LONG:
            return None
        return self._lookup.follow(match)

    def _found(self, text: Text, path: Sequence[int]) -> Match | None:
        """What the look-up finds after a path."""
        if self._lookup is None:
            return None
        return self._lookup.find([*text.tokens[-self._lookup.max_match :], *path])

    def _from_table(self, place: Place, path: Sequence[int]) -> dict[int, float]:
        """The table's likeliest tokens after a path, best first, with log estimates."""
        if self._table is None:
            return {}
        last_two = [*place.text.tokens[-2:], *path][-2:]
        before, last = last_two if len(last_two) == 2 else (-1, last_two[-1])
        tokens, logprobs = self._table.continuations(before, last)
        if place.text.sampling.edits or not place.text.is_greedy:
            return _ranked(place, tokens, logprobs, self._children)
        return dict(zip(tokens[: self._children], logprobs, strict=False))


def _cost(candidate: _Candidate) -> float:
    return candidate.cost


def _ranked(
    place: Place, tokens: Sequence[int], logprobs: Sequence[float], count: int
) -> dict[int, float]:
    """The best few of some likely tokens by what is asked for at a place, with estimates.

    Where noise decides among them, the estimate is the softmax of the perturbed log-probabilities.
    The best of the tokens not listed is itself Gumbel, around the logarithm of their mass.
    """
    scores = scores_of(place, tokens, logprobs)
    rest = math.log(max(1e-6, 1.0 - sum(math.exp(lp) for lp in logprobs)))
    if not (params := place.text.sampling.params).is_greedy:
        rest = rest / params.temperature + _EULER
    top = max(rest, *scores)
    total = math.exp(rest - top) + sum(math.exp(score - top) for score in scores)
    normaliser = top + math.log(total)
    best = sorted(zip(scores, tokens, strict=True), reverse=True)[:count]
    return {token: score - normaliser for score, token in best if score > -math.inf}
