"""The n-gram stage: a Katz trigram table and a live look-up. No model, no pass, microseconds.

Below a draft model it is the paper's draft² (Spector & Ré, section 3.2): it guesses what the draft
will say next, so that one draft pass evaluates several levels. Alone it drafts for any target.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

from engine.choosing import Place, scores_of
from engine.config import NgramStageConfig
from engine.drafting.base import StageWork
from engine.drafting.katz import KatzTable
from engine.drafting.lookup import Match, SuffixLookup
from engine.text import Text
from engine.tree import TokenTree

_EULER = 0.5772
_MATCH_DOUBT = 3.0
"""A match of m tokens is trusted m / (m + this): 0.5 for the shortest, 0.9 for a long one.

Only until the economy has seen how such matches fare.
"""
_LONG = 12

_Continuation = tuple[int, float, Match | None]
"""A token, its log acceptance estimate, and the match of the look-up that names it, if one does."""


class NgramDrafter:
    """Proposes by table and look-up together, best-first, ranked under the request's own noise."""

    def __init__(self, config: NgramStageConfig, table: KatzTable | None, name: str) -> None:
        self.budget = config.budget
        self.work = StageWork(name)
        self._children = config.children
        self._table = table
        self._lookup = SuffixLookup() if config.lookup else None

    def reset(self, prompt: Sequence[int]) -> None:
        """Index the prompt; earlier texts stay within reach."""
        if self._lookup is not None:
            self._lookup.start_text(prompt)

    def observe(self, tokens: Sequence[int]) -> None:
        """Index what a step has committed."""
        if self._lookup is not None:
            self._lookup.extend(tokens)

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """Add the at most `budget` likeliest nodes below `leaves` and recommend them all.

        Nodes that are too unlikely to pay are left out, and all are while guessing does not pay.
        """
        if not text.economy.guesses.may_ask:
            return []
        before = self.work.milliseconds
        with self.work.timed():
            prospects = text.economy.prospects(budget)
            scores = tree.scores()
            matches: dict[int, Match] = {}
            # Of equal scores the shallower node goes first, whatever its index.
            queue: list[tuple[float, int, int, int, float, Match | None]] = []

            def extend(node: int, score: float) -> None:
                depth = tree.depths[node]
                for token, estimate, match in self._continuations(
                    text, tree, node, matches.get(node)
                ):
                    entry = (-score - estimate, depth, node, token, estimate, match)
                    heapq.heappush(queue, entry)

            for leaf in leaves:
                extend(leaf, scores[leaf])
            proposed: dict[int, None] = {}
            expected = 1.0
            while queue and len(proposed) < budget:
                cost, _, parent, token, estimate, match = heapq.heappop(queue)
                chance = math.exp(-cost)
                if not prospects.are_good(chance, len(proposed), expected):
                    break
                node = tree.add(parent, token, estimate, self.work.name)
                if node in proposed:  # a leaf may lie below another leaf
                    continue
                proposed[node] = None
                expected += chance
                if match is not None:
                    matches[node] = match
                if len(proposed) < budget:
                    extend(node, -cost)
        text.economy.guesses.ask(self.work.name, self.work.milliseconds - before)
        return list(proposed)

    def take_work(self) -> list[StageWork]:
        """This stage's work; there is none below it."""
        return [self.work.take()]

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """Nothing to time: it has no network."""
        return {}

    def _continuations(
        self, text: Text, tree: TokenTree, node: int, match: Match | None
    ) -> list[_Continuation]:
        """The likeliest next tokens after a node, which `match` proposed if it is given."""
        if not text.can_extend(tree, node):
            return []
        self.work.num_passes += 1
        economy, name = text.economy, self.work.name
        # A long match is followed without searching, or asking the table, at every token.
        match = self._followed(match)
        table: dict[int, float] = {}
        if match is None:
            path = tree.path_tokens(node)
            match = self._found(text, path)
            table = self._from_table(Place(text, tree, node), path)
        believed: list[_Continuation] = []
        if match is not None:
            token, length, _ = match
            trust = math.log(length / (length + _MATCH_DOUBT))
            claim = max(trust, table.get(token, trust))
            kind = (name, "look-up", length.bit_length(), token in table)
            believed.append((token, economy.believe(node, token, kind, claim), match))
        for rank, (token, claim) in enumerate(table.items()):
            if match is None or token != match.token:
                kind = (name, "table", rank, match is not None)
                believed.append((token, economy.believe(node, token, kind, claim), None))
        believed.sort(key=_estimate, reverse=True)
        return believed[: self._children]

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
        sampling = place.text.sampling
        if sampling.edits or not sampling.params.is_greedy:
            return _ranked(place, tokens, logprobs, self._children)
        return dict(zip(tokens[: self._children], logprobs, strict=False))


def _estimate(continuation: _Continuation) -> float:
    return continuation[1]


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
