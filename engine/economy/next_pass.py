"""Whether one more draft pass pays, and over how many rows: what it may find against its time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.economy.beliefs import Claims
from engine.economy.choice import best_size
from engine.economy.prices import Prices
from engine.tree import TokenTree

_USUAL_BACKLOG = 8
_SHORTEST_OUTLOOK = 64


@dataclass(frozen=True, slots=True)
class NextPass:
    """A pass that the stage `name` might run, with `backlog` committed tokens that it has to read.

    Of a long backlog the pass bears only the share that falls on one of the steps to come: a text
    is thought to go on for as long as it has been going, and no longer than the `num_left` tokens
    that it may still get after `num_written`.
    """

    name: str
    prices: Prices
    backlog: int
    num_written: int
    num_left: int

    def weigh(
        self, claims: Claims, tree: TokenTree, rows: Sequence[int], budget: int
    ) -> tuple[int, float]:
        """Over how many of these nodes it should go, the best first, and the milliseconds it saves.

        0 if it does not pay. At most `budget` nodes of each text can be verified.
        """
        scores = tree.scores()
        drafts = range(len(tree.roots), len(tree))
        known = sorted([math.exp(scores[node]) for node in drafts], reverse=True)
        num_texts = self.prices.num_texts
        budget *= num_texts
        known = known[:budget]
        now = best_size(known, self.prices.step(len(known)), num_texts)[1]
        found = self._found(claims, tree, rows, scores)
        count = self._best_count(found, now)
        if not count:
            return 0, 0.0
        news = [chance for chances in found[:count] for chance in chances]
        after = sorted([*known, *news], reverse=True)[:budget]
        price = self._milliseconds(count)
        steps = [ms + price for ms in self.prices.step(len(after))]
        size, rate = best_size(after, steps, num_texts)
        return (count, steps[size] * (rate / now - 1)) if rate >= now * (1 - 1e-9) else (0, 0.0)

    def _found(
        self, claims: Claims, tree: TokenTree, rows: Sequence[int], scores: Sequence[float]
    ) -> list[list[float]]:
        """The reach of the children that the pass may find, by row and rank.

        They are of use only where the target's token is none of the children known already.
        """
        found = []
        for node in rows:
            known = sum(math.exp(tree.estimates[child]) for child in tree.children(node))
            share = math.exp(scores[node]) * max(0.0, 1 - known)
            expected = claims.expect(self.name, math.exp(tree.estimates[node]))
            found.append([share * chance for chance in expected])
        return found

    def _best_count(self, found: Sequence[Sequence[float]], now: float) -> int:
        """Over how many rows it pays best where time is worth `now` tokens a millisecond.

        0 if it does not, even if the target's pass over what it finds were free.
        """
        first = min(self.backlog, _USUAL_BACKLOG) + 1
        surcharge = self._milliseconds(1) - self.prices(self.name, first)
        best, most, gain = 0, 0.0, 0.0
        prices = self.prices.table(self.name, first, len(found))
        for count, (chances, price) in enumerate(zip(found, prices, strict=True), start=1):
            gain += sum(chances)
            if (net := gain - now * (price + surcharge)) >= most:
                best, most = count, net
        return best

    def _milliseconds(self, count: int) -> float:
        """The pass over so many nodes, with its share of the backlog."""
        usual = min(self.backlog, _USUAL_BACKLOG)
        extra = self.prices(self.name, self.backlog + 1) - self.prices(self.name, usual + 1)
        num_steps = max(1, min(self.num_left, max(_SHORTEST_OUTLOOK, self.num_written)) / 2)
        return self.prices(self.name, usual + count) + extra / num_steps
