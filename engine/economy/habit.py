"""Whether it pays to ask: where passes are short, even a look-up or a calculation counts."""

from dataclasses import dataclass, field

from engine.economy.sizes import NOTHING
from engine.economy.trials import Trials

_WEIGHT = 1 / 16
"""Of the latest step in what is remembered: texts change their nature within some tens of steps."""


@dataclass(slots=True)
class Habit:
    """What the steps that asked saved against those that did not, in milliseconds a step.

    As long as asking loses, it is for trials alone. A text begins with the credit of half a
    question, which is lost after six in vain, and the first with that of half a plain step.
    """

    saved: float = 0.0
    price: float = 0.0
    trials: Trials = field(default_factory=Trials)

    def start_text(self, plain: float) -> None:
        """Another text, whose plain step takes so long."""
        self.saved = max(self.saved, (self.price or plain) / 2)

    def is_due(self) -> bool:
        """Whether to ask in this step."""
        return self.saved >= 0 or self.trials.is_due(max(self.price, NOTHING), 0.0)

    def settle(self, step: float, price: float, saved: float, is_right: bool) -> None:
        """A step is over, which took so long, `price` of it for asking, and saved so much."""
        self.saved += _WEIGHT * (saved - self.saved)
        self.price += _WEIGHT * (price - self.price) if self.price else price
        self.trials.settle(step, True, is_right, is_right)

    def forgo(self, step: float) -> None:
        """A step is over, which took so long, and nobody was asked."""
        self.trials.forgo()
        self.trials.settle(step, False, False, False)
