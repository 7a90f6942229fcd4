"""What one step has spent and what more would cost, in the milliseconds of an idle machine."""

from dataclasses import dataclass

from engine.economy.choice import NOTHING, Prospects
from engine.economy.costs import Costs

TARGET_PASS, HOST = "target", "host"
"""Names of two curves: the target's pass; all that is not a pass."""

_NODE_MILLISECONDS = 0.01
_SMALLEST_REACH = 0.005


@dataclass(slots=True)
class Prices:
    """The prices of one step. Where it `is_free` everything costs nothing, and yet it is counted.

    `spent` is what drafting should have taken by the curves, `drafting` the milliseconds that it
    took by the clock.
    """

    costs: Costs
    num_texts: int = 1
    is_free: bool = False
    spent: float = 0.0
    drafting: float = 0.0

    def __call__(self, name: str, rows: int) -> float:
        """A pass of this name over so many rows."""
        return 0.0 if self.is_free else self.costs.curve(name)(rows)

    def table(self, name: str, start: int, count: int) -> list[float]:
        """Passes over `start`, `start + 1`, ... rows: so many of them."""
        return [0.0] * count if self.is_free else self.costs.curve(name).table(start, count)

    def step(self, budget: int) -> list[float]:
        """The whole step by the number of draft nodes verified of all texts, from 0 on."""
        target = self.table(TARGET_PASS, self.num_texts, budget + 1)
        host = self.table(HOST, self.num_texts, budget + 1)
        spent = self.spent
        return [spent + ours + others for ours, others in zip(target, host, strict=True)]

    def verifying(self, rows: int) -> float:
        """The target's pass over so many rows, and the host's work with it."""
        return self(TARGET_PASS, rows) + self(HOST, rows)

    @property
    def plain(self) -> float:
        """A step without any draft."""
        return max(self.verifying(self.num_texts), NOTHING)

    @property
    def token(self) -> float:
        """What one more token of a text saves: its share of a step without any draft."""
        return self.plain / self.num_texts

    def trial(self, name: str) -> float:
        """A pass of this name over one node, and the verifying of one more."""
        verifying = self.verifying(self.num_texts + 1) - self.plain
        return max(self(name, 1) + max(0.0, verifying), NOTHING)

    def prospects(self, budget: int) -> Prospects:
        """What it costs to grow a tree to at most so many draft nodes, up to now alone."""
        if self.is_free:
            return Prospects([0.0] * (budget + 1), 0.0, 0.0)
        return Prospects(self.step(budget), _NODE_MILLISECONDS, _SMALLEST_REACH)

    def spend_pass(self, name: str, rows: int, milliseconds: float) -> None:
        """A pass has been run, and took so long by the clock."""
        self.costs.observe(name, rows, milliseconds)
        self.spent += self.costs.curve(name)(rows)
        self.drafting += milliseconds

    def spend(self, milliseconds: float) -> None:
        """Something else was done for the draft, which took so long by the clock."""
        self.spent += milliseconds / self.costs.load
        self.drafting += milliseconds
