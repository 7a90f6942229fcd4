"""What is known of one model stage: what its passes find, and whether it pays to weigh them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.economy.habit import Habit
from engine.economy.outlook import Outlook
from engine.economy.passes import PassCount
from engine.economy.trials import Trials
from engine.tree import TokenTree


@dataclass(slots=True)
class Stage:
    """One model stage, and what it did in this step.

    To weigh a pass takes time too. Where no pass has paid for a while it is not even weighed, but
    in trials.
    """

    outlook: Outlook = field(default_factory=Outlook)
    trials: Trials = field(default_factory=Trials)
    habit: Habit = field(default_factory=Habit)
    passes: PassCount = field(default_factory=PassCount)
    may_weigh: bool = True
    is_weighed: bool = False
    has_run: bool = False
    pays: bool = False
    guessed: frozenset[int] = frozenset()
    weighing: float = 0.0
    saving: float = 0.0

    def start_text(self, plain: float) -> None:
        """Another text, whose plain step takes so long: what was learnt now weighs less."""
        self.outlook.start_text()
        self.trials.start_text()
        self.habit.start_text(plain)
        self.passes.start_text()

    def start_step(self) -> None:
        """Another step, in which it has done nothing yet."""
        self.outlook.start_tree()
        self.may_weigh = self.habit.is_due()
        self.is_weighed = self.has_run = self.pays = False
        self.weighing = self.saving = 0.0
        self.guessed = frozenset()

    def found(
        self, tree: TokenTree, rows: Sequence[int], scores: Sequence[float]
    ) -> list[list[float]]:
        """The reach of the children that a pass may find, by row and rank.

        They are of use only where the target's token is none of the children known already.
        """
        found = []
        for node in rows:
            known = sum(math.exp(tree.estimates[child]) for child in tree.children(node))
            share = math.exp(scores[node]) * max(0.0, 1 - known)
            likelihood = math.exp(tree.estimates[node]) if node else 1.0
            found.append([share * chance for chance in self.outlook.expect(likelihood)])
        return found

    def weigh(self, milliseconds: float, saving: float) -> None:
        """A pass has been weighed, which took so long; it promises to save so much, or nothing."""
        self.is_weighed = True
        self.weighing += milliseconds
        self.saving += saving
        self.pays = self.pays or saving > 0

    def settle(self, step: float, load: float, reached: Sequence[tuple[int, int]]) -> None:
        """A step is over, which took so long: the nodes reached, each with the target's token."""
        self.outlook.learn(reached)
        _, token = reached[0]
        is_right = self.outlook.is_right(token) and token not in self.guessed
        self.trials.settle(step, self.has_run, is_right, self.pays)
        if self.is_weighed:
            price = self.weighing / load
            self.habit.settle(step, price, self.saving - price, self.pays)
        else:
            self.habit.forgo(step)
