"""What a step and a request learned about their speculation: counts, passes and milliseconds.

Counts named `draft` exclude the bonus token; `emitted` and the acceptance length include it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StageStats:
    """One stage's part in one step or many.

    `num_proposed` counts the nodes of the verified trees whose origin is this stage, and
    `num_accepted` those the target agreed with. `num_guesses` counts what the stage offered to
    the stage above it and `num_confirmed` what that stage would itself have chosen; both are 0
    for the topmost stage. `num_passes` counts model passes (look-ups, for a stage with no model).
    """

    name: str
    num_proposed: int = 0
    num_accepted: int = 0
    num_guesses: int = 0
    num_confirmed: int = 0
    num_passes: int = 0
    milliseconds: float = 0.0

    def __add__(self, other: "StageStats") -> "StageStats":
        return StageStats(
            self.name,
            self.num_proposed + other.num_proposed,
            self.num_accepted + other.num_accepted,
            self.num_guesses + other.num_guesses,
            self.num_confirmed + other.num_confirmed,
            self.num_passes + other.num_passes,
            self.milliseconds + other.milliseconds,
        )


MAX_TRACED_NODES = 256
"""Of one text's tree in one step: the most that are shown, and so how deep it is shown."""


@dataclass(frozen=True, slots=True)
class StepTrace:
    """A text's tree as a step verified it, for whoever asked to see it.

    Node 0 is the root, the last token that the text had; the others come after their parents, of
    which the root has none (-1). `origins` name the stage that first proposed each, `estimates` are
    the probabilities, as believed before the pass, that the target chooses it after its parent. The
    target agreed along `path`, and chose the `bonus_token` after it. Of more than MAX_TRACED_NODES
    there are those of the path, and others as they were proposed.

    Milliseconds are those of the whole step, growing, scoring and choosing among them, for all the
    texts that shared it: `nodes_by_text` are the sizes of their trees, and this is that of `text`.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    origins: tuple[str, ...]
    estimates: tuple[float, ...]
    path: tuple[int, ...]
    bonus_token: int
    text: int
    nodes_by_text: tuple[int, ...]
    milliseconds: float
    growing_milliseconds: float
    scoring_milliseconds: float
    choosing_milliseconds: float


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step: the tree that was verified, what came of it, and where the time went.

    The step emitted `num_accepted_drafts` tokens and the bonus token. The counts are of
    the work that was run, even where an end of text inside the step cut its tokens. What was
    expected is the economy's forecast for the tree that it chose. Where `num_texts` shared the
    step, times are this text's share of them by nodes, so that those of all texts add up. There is
    a `trace` where the request asked for one.
    """

    num_nodes: int
    num_accepted_drafts: int
    milliseconds: float
    target_milliseconds: float
    stages: tuple[StageStats, ...] = ()
    expected_tokens: float = 1.0
    expected_milliseconds: float = 0.0
    num_texts: int = 1
    trace: StepTrace | None = None

    @property
    def num_draft_tokens(self) -> int:
        """Nodes of the tree below its root."""
        return self.num_nodes - 1


@dataclass(slots=True)
class SpeculationStats:
    """The fold of a request's steps.

    `acceptance_histogram[j]` is the number of steps that accepted exactly `j` draft tokens, so it
    sums to `num_steps`.
    """

    num_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_drafts: int = 0
    milliseconds: float = 0.0
    target_milliseconds: float = 0.0
    acceptance_histogram: list[int] = field(default_factory=list)
    stages: dict[str, StageStats] = field(default_factory=dict)
    expected_tokens: float = 0.0
    expected_milliseconds: float = 0.0

    def add(self, step: StepStats) -> None:
        """Fold one more step in."""
        self.num_steps += 1
        self.num_draft_tokens += step.num_draft_tokens
        self.num_accepted_drafts += step.num_accepted_drafts
        self.milliseconds += step.milliseconds
        self.target_milliseconds += step.target_milliseconds
        self.expected_tokens += step.expected_tokens
        self.expected_milliseconds += step.expected_milliseconds
        missing = step.num_accepted_drafts + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram.extend([0] * missing)
        self.acceptance_histogram[step.num_accepted_drafts] += 1
        for stage in step.stages:
            known = self.stages.get(stage.name)
            self.stages[stage.name] = stage if known is None else known + stage

    @classmethod
    def fold(cls, steps: Iterable[StepStats]) -> "SpeculationStats":
        """The statistics of all these steps together."""
        total = cls()
        for step in steps:
            total.add(step)
        return total

    @property
    def mean_acceptance_length(self) -> float:
        """τ: mean tokens emitted by a step, the bonus token included; 0 before the first step."""
        return 1 + self.num_accepted_drafts / self.num_steps if self.num_steps else 0.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted drafts over draft tokens; 0 when nothing was proposed."""
        return self.num_accepted_drafts / self.num_draft_tokens if self.num_draft_tokens else 0.0
