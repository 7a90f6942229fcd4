"""What a draft stage is: the contract that every kind keeps and every other room relies on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from engine.scorer import TreeScorer
from engine.stats import StageStats
from engine.text import Text
from engine.tree import TokenTree


@dataclass(slots=True)
class StageWork:
    """What one stage did since it was last asked.

    The stage itself counts passes and time; the stage above it counts the guesses that it took
    from it and those that it confirmed.
    """

    name: str
    num_guesses: int = 0
    num_confirmed: int = 0
    num_passes: int = 0
    milliseconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent inside to `milliseconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds += (time.perf_counter() - start) * 1e3

    def stats(self, num_proposed: int, num_accepted: int) -> StageStats:
        """As the noun that leaves the engine, with what became of the stage's proposals."""
        return StageStats(
            self.name,
            num_proposed,
            num_accepted,
            self.num_guesses,
            self.num_confirmed,
            self.num_passes,
            self.milliseconds,
        )

    def take(self) -> "StageWork":
        """A copy, after which the count starts again from nothing."""
        taken = replace(self)
        self.num_guesses = self.num_confirmed = self.num_passes = 0
        self.milliseconds = 0.0
        return taken


class Drafter(Protocol):
    """A draft stage with the stages below it folded in.

    `grow` proposes: it adds nodes below `leaves` to the tree, which is shared by all stages, and
    returns those it recommends, at most `budget`; with the leaves' own ancestors they form a tree.
    It may add others, whose scores then speak for them. It changes nothing else of the tree but
    the estimates of nodes that it knows better than the stage that proposed them. An estimate is
    what the economy believes of the stage's claim.
    """

    budget: int
    work: StageWork

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Learn the tokens that a step has committed."""

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """Propose nodes below `leaves`; the chain of calls goes down through the stages."""

    def take_work(self) -> list[StageWork]:
        """The work since the last call, this stage's first and the lower stages' after it."""

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """By stage, what runs one pass over so many rows after this text, so that it can be timed.

        Only stages with a network have any. What a rehearsal proposes is thrown away.
        """

    def scorers(self) -> Mapping[str, TreeScorer]:
        """The network of each stage that has one, this stage's first, as rehearsals are named."""


class NoStage:
    """The end of every list of stages: proposes nothing, so that the tree stays its root."""

    def __init__(self) -> None:
        self.budget = 0
        self.work = StageWork("none")

    def reset(self, prompt: Sequence[int]) -> None:
        """Nothing to forget."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Nothing to learn."""

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """No node."""
        return []

    def take_work(self) -> list[StageWork]:
        """No work."""
        return []

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """Nothing to time."""
        return {}

    def scorers(self) -> Mapping[str, TreeScorer]:
        """No network."""
        return {}
