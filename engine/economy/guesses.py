"""Whether it pays to ask the n-grams: where passes are short, even a look-up counts."""

from dataclasses import dataclass, field

from engine.economy.trials import Trials

_WEIGHT = 1 / 16
"""Of the latest step in what is remembered: texts change their nature within some tens of steps."""


@dataclass(slots=True)
class Guesses:
    """What the steps that asked the n-grams saved against plain ones, in milliseconds a step.

    As long as they lose, they are asked in trials alone.
    """

    saved: float = 0.0
    price: float = 0.0
    trials: Trials = field(default_factory=Trials)

    def start_text(self, plain: float) -> None:
        """Another text, whose plain step takes so long: they are given the time to show."""
        self.saved = max(self.saved, plain / 2)
        self.trials.start_text()

    def are_due(self) -> bool:
        """Whether to ask them in this step."""
        return self.saved >= 0 or self.trials.is_due(self.price, 0.0)

    def settle(self, step: float, price: float, saved: float, is_right: bool) -> None:
        """A step is over, which took so long, `price` of it for asking (0: they were not)."""
        if price:
            self.saved += _WEIGHT * (saved - self.saved)
            self.price += _WEIGHT * (price - self.price) if self.price else price
        else:
            self.trials.forgo()
        self.trials.settle(step, price > 0, is_right, self.saved >= 0)
