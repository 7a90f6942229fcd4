"""What is remembered of the past, which fades: texts change, and so do machines."""

from dataclasses import dataclass

_RATE = 1 / 16
"""Of the latest step in a mean: texts change their nature within some tens of steps."""


@dataclass(slots=True)
class Record:
    """Trials of claims of one kind, the probability that was claimed for them, and the hits."""

    memory: float
    trials: float = 0.0
    claimed: float = 0.0
    hits: float = 0.0

    def count(self, claim: float, is_hit: bool) -> None:
        """One more trial; older ones fade."""
        self.trials = self.memory * self.trials + 1
        self.claimed = self.memory * self.claimed + claim
        self.hits = self.memory * self.hits + is_hit

    def estimate(self, prior: float, weight: float) -> float:
        """The share of hits, where `prior` counts as much as `weight` trials."""
        return (weight * prior + self.hits) / (weight + self.trials)

    def fade(self, trials: float) -> None:
        """Weigh no more than so many trials from now on."""
        if self.trials > trials:
            share = trials / self.trials
            self.trials, self.claimed, self.hits = trials, share * self.claimed, share * self.hits


def moved(mean: float, latest: float, rate: float = _RATE) -> float:
    """A mean that fades, with the latest figure in it."""
    return mean + rate * (latest - mean)


def moved_from_first(mean: float, latest: float) -> float:
    """The same; the first figure, where nothing was known, is the mean."""
    return moved(mean, latest) if mean else latest
