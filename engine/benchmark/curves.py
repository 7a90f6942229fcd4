"""What fixed sizes bring by their draft nodes, and the best that a choice among them could reach.

A tree of n draft nodes emits τ(n) tokens a step, whatever the machine, and its pass takes t(1 + n).
If passes were all that takes time, the best size would be max over n of τ(n) t(1) / t(1 + n) times
as fast as plain decoding, which is n = 0. Stages with a network add what they took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.benchmark.figures import MODEL_FREE, Run, resamples, seconds_of
from engine.benchmark.modes import PLAIN, Mode

AUTO = "auto"

PassTimes = Mapping[int, Sequence[float]]
"""Milliseconds of the target's pass by its rows, one of each repetition."""


@dataclass(frozen=True, slots=True)
class Best:
    """How fast the size that pays best would be beside plain decoding if passes took all the time.

    `share` is how fast `auto` is beside that. Each with its 95 % interval, for this size.
    """

    mode: str
    ratio: float
    ratio_low: float
    ratio_high: float
    share: float
    share_low: float
    share_high: float


def best_size_of(
    modes: Sequence[Mode], runs: Mapping[str, Sequence[Run]], passes: PassTimes
) -> Best | None:
    """The best of the modes that have a size, and of plain, over whatever the runs are of.

    None where no mode has one, or `auto` was not measured.
    """
    sized = [mode for mode in modes if mode.size]
    if not sized or AUTO not in runs:
        return None
    curves = {mode.name: _Curve.of(runs[mode.name], mode.size, passes) for mode in sized}
    best = max(curves, key=lambda name: curves[name].ratio())
    curve, plain, auto = curves[best], seconds_of(runs[PLAIN]), seconds_of(runs[AUTO])
    if curve.ratio() <= 1:
        best, curve = PLAIN, _Curve.of(runs[PLAIN][:1], 0, passes)
    speed = float(np.median(plain.sum(1) / auto.sum(1)))
    rows, columns = resamples(*plain.shape)
    ratios = curve.ratios(rows[:, :, 0], columns[:, 0, :])
    speeds = np.median(plain[rows, columns].sum(2) / auto[rows, columns].sum(2), axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    share_low, share_high = np.quantile(speeds / ratios, (0.025, 0.975))
    ratio = curve.ratio()
    share = speed / ratio
    return Best(best, ratio, float(low), float(high), share, float(share_low), float(share_high))


@dataclass(frozen=True, slots=True)
class _Curve:
    """One size: by entry of a run what its texts emitted, their steps, and what drafting took.

    That are the milliseconds of stages with a network, of a step of all texts. `passes` are those
    of two passes, of plain decoding and of this size, by repetition.
    """

    emitted: NDArray[np.float64]
    steps: NDArray[np.float64]
    drafting: NDArray[np.float64]
    passes: NDArray[np.float64]

    @classmethod
    def of(cls, runs: Sequence[Run], size: int, passes: PassTimes) -> "_Curve":
        """Of the first run: what a size brings is the same in each."""
        parts, num_texts = runs[0].parts(), runs[0].num_texts
        emitted = [sum(1 + step.num_accepted_drafts for step in part) for part in parts]
        drafting = [
            sum(
                stage.milliseconds
                for step in part
                for stage in step.stages
                if not stage.name.startswith(MODEL_FREE)
            )
            for part in parts
        ]
        return cls(
            np.array(emitted, float),
            np.array([len(part) for part in parts], float),
            np.array(drafting, float) * num_texts,
            np.array([passes[num_texts], passes[num_texts * (1 + size)]]),
        )

    def ratio(self) -> float:
        """How fast it would be, to plain decoding."""
        every = np.arange(len(self.steps))[None, :]
        return float(self.ratios(np.arange(self.passes.shape[1])[None, :], every)[0])

    def ratios(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same for each choice of repetitions and of entries: (choices, chosen) of each."""
        steps = self.steps[columns].sum(1)
        alone, wide = np.median(self.passes[:, rows], axis=2)
        milliseconds = wide + self.drafting[columns].sum(1) / steps
        ratios: NDArray[np.float64] = self.emitted[columns].sum(1) / steps * alone / milliseconds
        return ratios
