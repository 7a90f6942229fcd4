"""From the times and steps of a mode's runs to its figures, with an interval for the ratio."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import STAGE_KINDS, ModelFreeStageConfig
from engine.stats import SpeculationStats, StageStats, StepStats

_NUM_RESAMPLES = 2000
MODEL_FREE = tuple(
    kind.name for kind in STAGE_KINDS.values() if issubclass(kind, ModelFreeStageConfig)
)
"""What the names of stages without a network begin with."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where the text of a passage, by its index, parts from the plain one, and with which token."""

    passage: int
    place: int
    token: int


@dataclass(slots=True)
class Run:
    """One mode over all passages, once: seconds of each to its first token and from there on.

    Where `num_texts` are written at once, so many passages are one entry of every list: their
    seconds are from when all had begun, and as many as the whole of their texts would have taken at
    the speed that they had until one ended. Of the steps of all, `num_steps` are each entry's.
    """

    first_token_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    steps: list[StepStats] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    num_steps: list[int] = field(default_factory=list)
    num_texts: int = 1

    def part(self, places: Collection[int]) -> "Run":
        """The same over some of the entries alone, by their indices."""
        parts = self.parts()
        return Run(
            [self.first_token_seconds[at] for at in places],
            [self.seconds[at] for at in places],
            [step for at in places for step in parts[at]],
            [each for each in self.divergences if each.passage // self.num_texts in places],
            [self.num_steps[at] for at in places],
            self.num_texts,
        )

    def parts(self) -> list[list[StepStats]]:
        """The steps of each entry."""
        ends = accumulate(self.num_steps)
        return [self.steps[end - n : end] for end, n in zip(ends, self.num_steps, strict=True)]


@dataclass(frozen=True, slots=True)
class Result:
    """What a mode did at one temperature; `docs/benchmark.md` tells of every figure."""

    mode: str
    temperature: float
    tokens_per_second: float
    ratio_to_plain: float
    ratio_low: float
    ratio_high: float
    acceptance_length: float
    step_cost: float
    draft_passes_per_step: float
    nodes_per_step: float
    time_to_first_token_ms: float
    stages: Mapping[str, Mapping[str, Any]]
    phases_ms: Mapping[str, float]
    predicted_tokens_per_second: float = 0.0
    share_plain: float = 0.0
    share_without_draft_pass: float = 0.0


def result_of(
    mode: str, temperature: float, num_tokens: int, runs: Sequence[Run], plain: Sequence[Run]
) -> Result:
    """The figures of a mode whose runs rate `num_tokens` tokens each, beside those of plain.

    There may be more runs of plain, those of later repetitions.
    """
    plain = plain[: len(runs)]
    seconds, plain_seconds = seconds_of(runs), seconds_of(plain)
    ratios = plain_seconds.sum(1) / seconds.sum(1)
    low, high = ratio_interval(plain_seconds, seconds)
    steps = [step for run in runs for step in run.steps]
    stats = SpeculationStats.fold(steps)
    first_tokens = [seconds for run in runs for seconds in run.first_token_seconds]
    return Result(
        mode=mode,
        temperature=temperature,
        tokens_per_second=float(np.median(num_tokens / seconds.sum(1))),
        ratio_to_plain=float(np.median(ratios)),
        ratio_low=low,
        ratio_high=high,
        acceptance_length=stats.mean_acceptance_length,
        step_cost=float(np.median(_step_seconds(runs) / _step_seconds(plain))),
        draft_passes_per_step=_num_draft_passes(stats.stages.values()) / stats.num_steps,
        nodes_per_step=1 + stats.num_draft_tokens / stats.num_steps,
        time_to_first_token_ms=1e3 * statistics.median(first_tokens),
        stages=_by_stage(stats),
        phases_ms=_phases_ms(stats),
        predicted_tokens_per_second=_predicted(stats),
        share_plain=_share(step.num_nodes == 1 for step in steps),
        share_without_draft_pass=_share(
            step.num_nodes > 1 and not _num_draft_passes(step.stages) for step in steps
        ),
    )


def seconds_of(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Repetitions by passages."""
    return np.array([run.seconds for run in runs])


def _step_seconds(runs: Sequence[Run]) -> NDArray[np.float64]:
    """The mean time of a step in each repetition."""
    return np.array([sum(run.seconds) / len(run.steps) for run in runs])


def _num_draft_passes(stages: Iterable[StageStats]) -> int:
    """Passes of models and heads; a stage without a network counts its look-ups, which are none."""
    return sum(s.num_passes for s in stages if not s.name.startswith(MODEL_FREE))


def _predicted(stats: SpeculationStats) -> float:
    """Tokens a second by the economy's forecasts; 0 where it made none."""
    milliseconds = stats.expected_milliseconds
    return 1e3 * stats.expected_tokens / milliseconds if milliseconds else 0.0


def _share(matches: Iterable[bool]) -> float:
    return statistics.fmean(matches)


def _by_stage(stats: SpeculationStats) -> dict[str, dict[str, Any]]:
    return {
        name: {**asdict(stage), "accepted_per_step": stage.num_accepted / stats.num_steps}
        for name, stage in stats.stages.items()
    }


def _phases_ms(stats: SpeculationStats) -> dict[str, float]:
    """The mean step by who spent it."""
    target = stats.target_milliseconds
    stages = {name: stage.milliseconds for name, stage in stats.stages.items()}
    phases = {"target": target, **stages, "other": stats.milliseconds - target}
    phases["other"] -= sum(stages.values())
    return {name: milliseconds / stats.num_steps for name, milliseconds in phases.items()}


def ratio_interval(plain: NDArray[np.float64], mode: NDArray[np.float64]) -> tuple[float, float]:
    """A 95 % interval of the speed of `mode` in that of `plain`: seconds, repetitions by prompts.

    The percentile bootstrap for crossed samples (Owen, The pigeonhole bootstrap, 2007): resample
    repetitions and prompts, both with replacement, and take the median ratio over repetitions.
    With one repetition or one prompt it does not know how others would have differed.
    """
    rows, columns = resamples(*plain.shape)
    ratios = plain[rows, columns].sum(2) / mode[rows, columns].sum(2)
    low, high = np.quantile(np.median(ratios, axis=1), (0.025, 0.975))
    return float(low), float(high)


def resamples(
    num_repetitions: int, num_prompts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns that resample both: indices that fit each other, of 2000 samples."""
    random = np.random.default_rng(0)
    rows = random.integers(num_repetitions, size=(_NUM_RESAMPLES, num_repetitions, 1))
    columns = random.integers(num_prompts, size=(_NUM_RESAMPLES, 1, num_prompts))
    return rows, columns
