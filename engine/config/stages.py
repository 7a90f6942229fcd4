"""The stages of drafting as a configuration names them: every kind answers for itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from engine.config.section import Positive, Section

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"]
"""A precision: a format of weights and the arithmetic over it. `auto` goes by the machine."""


@dataclass(frozen=True, slots=True)
class StageConfig(Section, ABC):
    """What every kind of stage answers; `name` is what metrics and replies call it."""

    name: ClassVar[str]
    reads_target: ClassVar[bool] = False
    """Whether it reads the target's hidden states: then it must be the first."""

    @property
    def checkpoint(self) -> str | None:
        """The network that it drafts with, and nothing else may draft with; None without one."""
        return None

    @property
    @abstractmethod
    def budget(self) -> int:
        """The most nodes that it hands up, each time it is asked."""

    @property
    def passes(self) -> int:
        """The most draft passes of a step, before each of which the stage below is asked."""
        return 0

    def num_rows(self, num_calls: int, num_guesses: int) -> int:
        """The most nodes it may hold in a step that asks it so often.

        Each time it asks the stage below, that guesses at most `num_guesses`.
        """
        return self.budget

    @abstractmethod
    def resized(self, budget: int, passes: int) -> Self:
        """The same in other sizes; `passes` is for who runs any."""

    @abstractmethod
    def chain(self, length: int) -> Self:
        """The same, of so many nodes in a row."""


@dataclass(frozen=True, slots=True)
class ModelStageConfig(StageConfig):
    """A draft model: the tree it hands up has at most `budget` nodes.

    A step runs at most `passes` draft passes, each over at most `width` frontier nodes (and what
    the stage below guesses under them); every evaluated node gets its best `children`. Under
    `"speculation": "auto"` these are limits, of which a step takes what pays; `always` uses them
    fully. It computes in `dtype`, by default in what the target's setting says.
    """

    name: ClassVar[str] = "draft"
    model: str
    budget: Positive = 32
    passes: Positive = 4
    width: Positive = 8
    children: Positive = 4
    dtype: Dtype | None = None

    @property
    def checkpoint(self) -> str:
        """The draft model."""
        return self.model

    def num_rows(self, num_calls: int, num_guesses: int) -> int:
        """The most nodes it may hold: what it hands up, or all that its passes evaluate."""
        return max(self.budget, num_calls * self.passes * (self.width + num_guesses))

    def resized(self, budget: int, passes: int) -> Self:
        """The same with so many nodes and passes at most."""
        return replace(self, budget=budget, passes=passes)

    def chain(self, length: int) -> Self:
        """The same, of one node a pass."""
        return replace(self, budget=length, passes=length, width=1, children=1)


@dataclass(frozen=True, slots=True)
class HeadStageConfig(ModelStageConfig):
    """A head that reads the target's hidden states (EAGLE-3); it grows its tree like a draft model.

    It can only be the first stage, right below the target. Its numbers are the target's, its
    weights in int8 or int4 if `dtype` says so.
    """

    name: ClassVar[str] = "head"
    reads_target: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ModelFreeStageConfig(StageConfig):
    """A stage without a network: at most `budget` nodes a call, a limit under `auto`.

    Such stages next to each other draft as one, in the sizes of the first of them.
    """

    budget: Positive = 8
    children: Positive = 2

    def resized(self, budget: int, passes: int) -> Self:
        """The same with so many nodes at most."""
        return replace(self, budget=budget)

    def chain(self, length: int) -> Self:
        """The same, one child a node."""
        return replace(self, budget=length, children=1)


@dataclass(frozen=True, slots=True)
class NgramStageConfig(ModelFreeStageConfig):
    """A Katz trigram table and a live look-up of the text so far.

    Without a `table` the stage is the look-up alone, which needs no training and fits any target.
    """

    name: ClassVar[str] = "ngram"
    table: str | None = None
    lookup: bool = True


@dataclass(frozen=True, slots=True)
class RecycleStageConfig(ModelFreeStageConfig):
    """What the stage above, or the target, thought likely after the same two tokens, or one.

    It needs no training: it learns from every row that is scored anyway.
    """

    name: ClassVar[str] = "recycle"
