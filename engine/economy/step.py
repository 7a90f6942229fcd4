"""One step as the economy sees it: claims, spending and a forecast, which end with it."""

import math
from collections.abc import Sequence

from engine.economy.beliefs import Claims
from engine.economy.choice import Choice, Prospects, best_size
from engine.economy.experience import Experience
from engine.economy.outcome import Outcome
from engine.economy.prices import HOST, TARGET_PASS, Prices
from engine.economy.turn import Turn
from engine.stats import StageStats
from engine.text import Text
from engine.tree import TokenTree


class Step:
    """A step of a text, whose stages take turns to grow one tree from its last token.

    No node may lie deeper than `max_depth`.
    """

    __slots__ = ("_experience", "claims", "max_depth", "prices", "text", "tree", "turns")

    def __init__(self, text: Text, max_depth: int, experience: Experience) -> None:
        self.text = text
        self.tree = TokenTree(text.tokens[-1])
        self.max_depth = max_depth
        self.claims = Claims(experience.beliefs)
        self.prices = Prices(experience.costs, text.is_free)
        self.turns: dict[str, Turn] = {}
        self._experience = experience

    def turn(self, name: str) -> Turn:
        """The turn of the stage of this name."""
        if (turn := self.turns.get(name)) is None:
            account = self._experience.account(name)
            turn = Turn(name, account, self.prices, self.claims, self.text, self.tree)
            self.turns[name] = turn
        return turn

    def can_extend(self, node: int) -> bool:
        """Whether anything may be proposed below this node: not at the end of a text."""
        tree = self.tree
        is_end = node > 0 and tree.tokens[node] in self.text.stop_ids
        return tree.depths[node] < self.max_depth and not is_end

    def prospects(self, budget: int) -> Prospects:
        """What it costs to grow the tree to at most so many draft nodes, up to now alone."""
        return self.prices.prospects(budget)

    def choose(self, nodes: Sequence[int]) -> Choice:
        """The nodes worth verifying, of those proposed, with them their ancestors."""
        order: Sequence[int] = ()
        reach: list[float] = []
        size = 0
        if nodes:
            scores = self.tree.scores()
            order = sorted(nodes, key=lambda node: (-scores[node], node))
            reach = [math.exp(scores[node]) for node in order]
            size = best_size(reach, self.prices.step(len(order)))[0]
        tokens, costs = 1 + sum(reach[:size]), self.prices.costs
        passes = costs.curve(TARGET_PASS)(1 + size) + costs.curve(HOST)(1 + size)
        choosing = self._experience.choosing * tokens
        milliseconds = (self.prices.spent + passes + choosing) * costs.load
        return Choice(sorted(order[:size]), tokens, milliseconds)

    def stats(self, proposed: Sequence[str], accepted: Sequence[str]) -> tuple[StageStats, ...]:
        """What each stage did whose turn it was, by the origins of the nodes verified."""
        return tuple(
            turn.stats(proposed.count(name), accepted.count(name))
            for name, turn in self.turns.items()
        )

    def learn(self, outcome: Outcome) -> None:
        """The step is over: whatever lives longer learns from it."""
        prices, experience = self.prices, self._experience
        self.claims.settle(outcome.reached)
        prices.costs.observe(TARGET_PASS, outcome.num_rows, outcome.target)
        weighing = sum(turn.weighing for turn in self.turns.values())
        experience.observe_host(outcome, prices.drafting + weighing)
        for name in experience.accounts:
            self.turn(name).settle(outcome)
