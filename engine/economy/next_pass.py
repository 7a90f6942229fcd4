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
        self,
        claims: Claims,
        tree: TokenTree,
        scores: Sequence[float],
        rows: Sequence[int],
        budget: int,
    ) -> tuple[int, float]:
        """Over how many of these nodes it should go, the best first, and the milliseconds it saves.

        0 if it does not pay. `scores` are the tree's. At most `budget` nodes of each text can be
        verified.
        """
        num_texts = self.prices.num_texts
        budget *= num_texts
        known = sorted(map(math.exp, scores[num_texts:]), reverse=True)[:budget]
        now = best_size(known, self.prices.step(len(known)), num_texts)[1]
        found = self._found(claims, tree, scores, rows)
        count = self._best_count(found, now)
        if not count:
            return 0, 0.0
        news = [share * chance for share, expected, _ in found[:count] for chance in expected]
        after = sorted([*known, *news], reverse=True)[:budget]
        price = self._milliseconds(count)
        steps = [ms + price for ms in self.prices.step(len(after))]
        size, rate = best_size(after, steps, num_texts)
        return (count, steps[size] * (rate / now - 1)) if rate >= now * (1 - 1e-9) else (0, 0.0)

    def _found(
        self, claims: Claims, tree: TokenTree, scores: Sequence[float], rows: Sequence[int]
    ) -> list[tuple[float, Sequence[float], float]]:
        """What the pass may find below each row: children of a share of these reaches, and the sum.

        They are of use only where the target's token is none of the children known already.
        """
        found: list[tuple[float, Sequence[float], float]] = []
        exp, estimates, children = math.exp, tree.estimates, tree.children
        for node in rows:
            share = exp(scores[node])
            if below := children(node):
                share *= max(0.0, 1 - sum([exp(estimates[child]) for child in below]))
            expected, total = claims.expect(self.name, exp(estimates[node]))
            found.append((share, expected, share * total))
        return found

    def _best_count(self, found: Sequence[tuple[float, Sequence[float], float]], now: float) -> int:
        """Over how many rows it pays best where time is worth `now` tokens a millisecond.

        0 if it does not, even if the target's pass over what it finds were free.
        """
        first = min(self.backlog, _USUAL_BACKLOG) + 1
        surcharge = self._milliseconds(1) - self.prices(self.name, first)
        best, most, gain = 0, 0.0, 0.0
        prices = self.prices.table(self.name, first, len(found))
        for count, ((_, _, tokens), price) in enumerate(zip(found, prices, strict=True), start=1):
            gain += tokens
            if (net := gain - now * (price + surcharge)) >= most:
                best, most = count, net
        return best

    def _milliseconds(self, count: int) -> float:
        """The pass over so many nodes, with its share of the backlog."""
        usual = min(self.backlog, _USUAL_BACKLOG)
        extra = self.prices(self.name, self.backlog + 1) - self.prices(self.name, usual + 1)
        num_steps = max(1, min(self.num_left, max(_SHORTEST_OUTLOOK, self.num_written)) / 2)
        return self.prices(self.name, usual + count) + extra / num_steps
