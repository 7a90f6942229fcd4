"""One step as the economy sees it: claims, spending and a forecast, which end with it."""

import math
from collections.abc import Sequence

from engine.accept import Acceptance
from engine.economy.beliefs import Claims
from engine.economy.choice import Choice, Prospects, best_size
from engine.economy.experience import Experience
from engine.economy.outcome import Outcome
from engine.economy.prices import HOST, TARGET_PASS, Prices
from engine.economy.turn import Turn
from engine.stats import StepStats
from engine.stopwatch import Stopwatch
from engine.text import Text
from engine.tree import TokenTree


class Step:
    """A step of a text, whose stages take turns to grow one tree from its last token.

    No node may lie deeper than `max_depth`. `choice` is made when all that pays has been proposed.
    """

    __slots__ = (
        *("_experience", "choice", "claims", "clock", "max_depth"),
        *("prices", "text", "tree", "turns"),
    )

    def __init__(self, text: Text, max_depth: int, experience: Experience) -> None:
        self.clock = Stopwatch()
        self.text = text
        self.tree = TokenTree(text.tokens[-1])
        self.max_depth = max_depth
        self.claims = Claims(experience.beliefs)
        self.prices = Prices(experience.costs, text.is_free)
        self.turns: dict[str, Turn] = {}
        self.choice = Choice([], 1.0, 0.0)
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

    def choose(self, nodes: Sequence[int]) -> TokenTree:
        """The tree to verify: of the nodes proposed those worth it, with them their ancestors."""
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
        self.choice = Choice(sorted(order[:size]), tokens, milliseconds)
        return self.tree.prune(self.choice.nodes)

    def close(self, tree: TokenTree, accepted: Acceptance, num_rows: int) -> StepStats:
        """The step is over: whatever lives longer learns from it, and this is what came of it.

        Of `tree`, which was chosen, so much was accepted; its pass had so many rows. The clock has
        laps of "scoring", the pass, and "choosing", the target's tokens.
        """
        laps, origins = self.clock.laps, accepted.origins(tree)
        stages = tuple(
            turn.stats(tree.origins.count(name), origins.count(name))
            for name, turn in self.turns.items()
        )
        places = [0, *self.choice.nodes]
        reached = [places[node] for node in (0, *accepted.path)]
        self.learn(
            Outcome(
                list(zip(reached, accepted.tokens(tree), strict=True)),
                *(self.clock.total, laps["scoring"], laps["choosing"], num_rows, len(tree)),
                *(tree.origins[1:], origins[:-1]),
            )
        )
        return StepStats(
            num_nodes=len(tree),
            num_accepted_drafts=len(accepted.path),
            milliseconds=self.clock.total,
            target_milliseconds=laps["scoring"] + laps["choosing"],
            stages=stages,
            expected_tokens=self.choice.tokens,
            expected_milliseconds=self.choice.milliseconds,
        )

    def learn(self, outcome: Outcome) -> None:
        """Learn from what came of the step."""
        prices, experience = self.prices, self._experience
        self.claims.settle(outcome.reached)
        prices.costs.observe(TARGET_PASS, outcome.num_rows, outcome.target)
        weighing = sum(turn.weighing for turn in self.turns.values())
        experience.observe_host(outcome, prices.drafting + weighing)
        for name, account in experience.accounts.items():
            if (turn := self.turns.get(name)) is not None:
                turn.settle(outcome)
            else:
                account.rest(outcome.total)
