"""One step as the economy sees it: claims, spending and a forecast, which end with it."""

import math
from collections.abc import Sequence

from engine.accept import Acceptance
from engine.economy.beliefs import Claims
from engine.economy.choice import Choice, Prospects, best_size
from engine.economy.experience import Experience
from engine.economy.outcome import Outcome
from engine.economy.prices import HOST, TARGET_PASS, Prices
from engine.economy.trace import trace_of
from engine.economy.turn import Turn
from engine.stats import StepStats
from engine.stopwatch import Stopwatch
from engine.text import Text
from engine.tree import TokenTree


class Step:
    """A step of texts, whose stages take turns to grow one tree from their last tokens.

    No node of a text may lie deeper than its `max_depths`. `choice` is made when all that pays has
    been proposed.
    """

    __slots__ = (
        *("_experience", "choice", "claims", "clock", "max_depths"),
        *("prices", "texts", "tree", "turns"),
    )

    def __init__(
        self, texts: Sequence[Text], max_depths: Sequence[int], experience: Experience
    ) -> None:
        self.clock = Stopwatch()
        self.texts = texts
        self.tree = TokenTree(*[text.tokens[-1] for text in texts])
        self.max_depths = max_depths
        self.claims = Claims(experience.beliefs)
        is_free = all(text.is_free for text in texts)
        self.prices = Prices(experience.costs, len(texts), is_free)
        self.turns: dict[str, Turn] = {}
        self.choice = Choice([], [], 0.0)
        self._experience = experience

    @property
    def leaves(self) -> list[int]:
        """The roots of texts that are to be drafted for.

        Not for the first token, which is sent before anything is drafted, or a draft reads the
        prompt. None while no stage would be asked: then this step is a plain one.
        """
        texts = self.texts
        if self._experience.pause > 0 and not any([text.is_free for text in texts]):
            return []
        return [root for root in self.tree.roots if texts[root].is_drafted_for]

    def turn(self, name: str) -> Turn:
        """The turn of the stage of this name."""
        if (turn := self.turns.get(name)) is None:
            account = self._experience.account(name)
            turn = Turn(name, account, self.prices, self.claims, self.texts, self.tree)
            self.turns[name] = turn
        return turn

    def can_extend(self, node: int) -> bool:
        """Whether anything may be proposed below this node: not at the end of a text."""
        tree, text = self.tree, self.tree.texts[node]
        depth = tree.depths[node]
        is_end = depth > 0 and tree.tokens[node] in self.texts[text].stop_ids
        return depth < self.max_depths[text] and not is_end

    def prospects(self, budget: int) -> Prospects:
        """What it costs to grow the tree to at most so many draft nodes, up to now alone."""
        return self.prices.prospects(budget)

    def choose(self, nodes: Sequence[int]) -> TokenTree:
        """The tree to verify: of the nodes proposed those worth it, with them their ancestors.

        There is one order of the nodes of all texts. What is free is always among them.
        """
        base, tree, prices = len(self.texts), self.tree, self.prices
        order: list[int] = []
        reach: list[float] = []
        size = 0
        if nodes:
            scores, texts = tree.scores(), tree.texts
            is_free = [text.is_free for text in self.texts]
            # The best first; of equal ones that which was proposed first.
            order = sorted(sorted(nodes), key=scores.__getitem__, reverse=True)
            if any(is_free):
                order.sort(key=lambda node: not is_free[texts[node]])
                size = sum([is_free[texts[node]] for node in nodes])
            reach = [math.exp(scores[node]) for node in order]
            steps = prices.step(len(order))[size:]
            size += best_size(reach[size:], steps, base + sum(reach[:size]))[0]
        tokens = [1.0] * base
        for node, chance in zip(order[:size], reach, strict=False):
            tokens[tree.texts[node]] += chance
        curves = prices.costs.curve(TARGET_PASS), prices.costs.curve(HOST)
        passes = sum([curve(base + size) for curve in curves])
        choosing = self._experience.choosing * sum(tokens)
        milliseconds = (prices.spent + passes + choosing) * prices.costs.load
        # Often nothing was proposed at all.
        pruned, places = tree.prune(order[:size]) if nodes else (tree, tree.roots)
        self.choice = Choice(places, tokens, milliseconds)
        return pruned

    def close(
        self, tree: TokenTree, accepted: Sequence[Acceptance], num_rows: int
    ) -> list[StepStats]:
        """The step is over: whatever lives longer learns from it, and this is what came of it.

        Of `tree`, which was chosen, so much was accepted of each text; its pass had so many rows.
        The clock has laps of "scoring", the pass, and "choosing", the target's tokens.
        """
        laps, places = self.clock.laps, self.choice.nodes
        emitted = [each.tokens(tree) for each in accepted]
        paths = [node for each in accepted for node in each.path]
        firsts = [tokens[0] for tokens in emitted]
        later = [token for tokens in emitted for token in tokens[1:]]
        reached = [places[node] for node in (*tree.roots, *paths)]
        self.learn(
            Outcome(
                list(zip(reached, [*firsts, *later], strict=True)),
                *(self.clock.total, laps["scoring"], laps["choosing"], num_rows, len(tree)),
                proposed=[origin for origin in tree.origins if origin],
                accepted=[tree.origins[node] for node in paths],
                parents=[places[tree.parents[node]] for node in paths],
                num_texts=len(accepted),
            )
        )
        total = self.clock.total
        return [self._stats(tree, text, each, total) for text, each in enumerate(accepted)]

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
        # Of a stage that did not ask whether it may, nothing is known.
        pauses = [turn.pause for turn in self.turns.values()]
        pauses = [each if each < math.inf else 0.0 for each in pauses]
        experience.pause = min(pauses, default=experience.pause) - outcome.total

    def _stats(
        self, tree: TokenTree, text: int, accepted: Acceptance, milliseconds: float
    ) -> StepStats:
        """Of one text, which bears its nodes' share of what the step took."""
        end = tree.roots[text + 1] if text + 1 < len(tree.roots) else len(tree)
        proposed = tree.origins[tree.roots[text] : end]
        agreed = [tree.origins[node] for node in accepted.path]
        share, laps = len(proposed) / len(tree), self.clock.laps
        return StepStats(
            num_nodes=len(proposed),
            num_accepted_drafts=len(agreed),
            milliseconds=share * milliseconds,
            target_milliseconds=share * (laps["scoring"] + laps["choosing"]),
            stages=tuple(
                [
                    turn.stats(share, proposed.count(name), agreed.count(name))
                    for name, turn in self.turns.items()
                ]
            ),
            expected_tokens=self.choice.tokens[text],
            expected_milliseconds=share * self.choice.milliseconds,
            num_texts=len(tree.roots),
            trace=(
                trace_of(tree, text, accepted, milliseconds, laps)
                if self.texts[text].request.is_traced
                else None
            ),
        )
