"""What a draft stage is: the contract that every kind keeps and every other room relies on."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from engine.economy import Step
from engine.scorer import TreeScorer
from engine.text import Text
from engine.tree import TokenTree


class Scored(NamedTuple):
    """What the stage above, or the target, has scored: nodes of a tree that hangs on texts.

    `logits` are a row for each node; of the vocabulary that stages may propose, and no more.
    """

    texts: Sequence[Text]
    tree: TokenTree
    nodes: Sequence[int]
    logits: Tensor


class Drafter(Protocol):
    """A draft stage with the stages below it folded in; it holds no text and no step.

    `grow` proposes: it adds nodes below `leaves` to the step's tree, which is shared by all stages,
    and returns those it recommends, at most `budget` of each text; with the leaves' own ancestors
    they form a tree. It may add others, whose scores then speak for them. It changes nothing else
    of the tree but the estimates of nodes that it knows better than the stage that proposed them.
    An estimate is what the step believes of the stage's claim. What a stage lacks of a text it
    reads there.
    """

    budget: int

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Propose nodes below `leaves`; the chain of calls goes down through the stages."""

    def learn(self, step: Step, scored: Scored) -> None:
        """Hear what was scored above, all of it, accepted or not; its logits are read at once.

        Whoever has no use for it does not touch the logits.
        """

    def credit(self, step: Step, guesses: Sequence[int], confirmed: set[int]) -> None:
        """The stage above has taken these nodes, and would itself have proposed some of them."""

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """By stage, what runs one pass over so many rows after this text, so that it can be timed.

        Only stages with a network have any. What a rehearsal proposes is thrown away.
        """

    def scorers(self) -> Mapping[str, TreeScorer]:
        """The network of each stage that has one, this stage's first, as rehearsals are named."""


class NoStage:
    """The end of every list of stages: proposes nothing, so that the tree stays its root."""

    name = "none"
    budget = 0

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """No node."""
        return []

    def learn(self, step: Step, scored: Scored) -> None:
        """Nothing to learn."""

    def credit(self, step: Step, guesses: Sequence[int], confirmed: set[int]) -> None:
        """All of them are the stage's."""
        step.turn(self.name).count_guesses(len(guesses), len(confirmed.intersection(guesses)))

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """Nothing to time."""
        return {}

    def scorers(self) -> Mapping[str, TreeScorer]:
        """No network."""
        return {}
