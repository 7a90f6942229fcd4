"""From runs to the figures of the table, and to the goals that they are held against."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.contest import LOOP, PLAIN, ROWS
from benchmarks.paper.store import Measured, Runs
from engine.benchmark import Passage, ratio_interval, result_of
from engine.config import NgramStageConfig
from engine.economy import TARGET_PASS

Figures = dict[str, Any]

_NEAR = 2.0
"""Both scores of a pair may be off by the worst rounding."""


@dataclass(frozen=True, slots=True)
class Scales:
    """What figures are in proportion to.

    `weight_bytes` of a pass by network, the memory's `bytes_per_second`, and the worst difference
    that a pass's width makes to a logit.
    """

    weight_bytes: Mapping[str, int]
    bytes_per_second: float
    worst_rounding: float


def figures_of(runs: Runs, passages: Sequence[Passage], scales: Scales) -> list[Figures]:
    """Every row that was measured beside plain at the temperature of these passages."""
    temperature = passages[0].request.sampling.temperature
    by_row = {row: runs.of(temperature, row) for row in ROWS}
    return [_figures(row, by_row[row], by_row, passages, scales) for row in ROWS if by_row[row]]


def _figures(
    row: str,
    own: Mapping[int, Measured],
    by_row: Mapping[str, Mapping[int, Measured]],
    passages: Sequence[Passage],
    scales: Scales,
) -> Figures:
    num_rated = sum(len(passage.text) - 1 for passage in passages)
    mine, plain = _pairs(own, by_row[PLAIN])
    temperature = passages[0].request.sampling.temperature
    result = result_of(row, temperature, num_rated, [m.run for m in mine], [m.run for m in plain])
    traffic = _traffic(mine, num_rated, scales.weight_bytes)
    speeds = num_rated / _seconds(mine).sum(1)
    gaps = [gap for measured in mine for gap in measured.gaps]
    bytes_per_second = result.tokens_per_second * traffic * scales.weight_bytes[TARGET_PASS]
    return {
        **asdict(result),
        "num_repetitions": len(mine),
        "quartiles": [float(np.quantile(speeds, share)) for share in (0.25, 0.75)],
        **_ratio_to_loop(own, by_row[LOOP]),
        "traffic": traffic,
        "share_of_bandwidth": bytes_per_second / scales.bytes_per_second,
        "share_host": result.phases_ms["other"] / sum(result.phases_ms.values()),
        "num_texts": len(mine) * len(passages),
        "num_diverged": len(gaps),
        "num_near_ties": sum(gap <= _NEAR * scales.worst_rounding for gap in gaps),
        "largest_gap": max(gaps, default=0.0),
    }


def _traffic(mine: Sequence[Measured], num_rated: int, weight_bytes: Mapping[str, int]) -> float:
    """Bytes of weights that are read for an emitted token, in those that plain decoding reads."""
    steps = [step for measured in mine for step in measured.run.steps]
    read = len(steps) * weight_bytes[TARGET_PASS]
    for step in steps:
        for stage in step.stages:
            if not stage.name.startswith(NgramStageConfig.name):
                read += stage.num_passes * weight_bytes[stage.name]
    return read / (len(mine) * num_rated * weight_bytes[TARGET_PASS])


def _ratio_to_loop(own: Mapping[int, Measured], loop: Mapping[int, Measured]) -> Figures:
    """Speed in that of the loop with its 95 % interval; nothing, if the loop was left out."""
    mine, others = _pairs(own, loop)
    if not mine:
        return {"ratio_to_loop": None, "loop_low": None, "loop_high": None}
    seconds, loop_seconds = _seconds(mine), _seconds(others)
    low, high = ratio_interval(loop_seconds, seconds)
    ratio = float(np.median(loop_seconds.sum(1) / seconds.sum(1)))
    return {"ratio_to_loop": ratio, "loop_low": low, "loop_high": high}


def _pairs(
    own: Mapping[int, Measured], others: Mapping[int, Measured]
) -> tuple[list[Measured], list[Measured]]:
    """Runs of the same repetitions."""
    common = sorted(own.keys() & others.keys())
    return [own[each] for each in common], [others[each] for each in common]


def _seconds(measured: Sequence[Measured]) -> NDArray[np.float64]:
    """Repetitions by passages."""
    return np.array([each.run.seconds for each in measured])


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was aimed at, at least or at most; `paper` is what the paper reports.

    Without a `goal` it is there to be compared with the paper's.
    """

    name: str
    goal: float | None
    measured: float | None
    is_limit: bool = False
    paper: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None if it was not measured, or is no goal."""
        if self.measured is None or self.goal is None:
            return None
        return self.measured <= self.goal if self.is_limit else self.measured >= self.goal


def goals(document: Figures) -> list[Goal]:
    """All goals, with what the document has of each."""
    found = [goal for each in document["temperatures"] for goal in _goals_at(each)]
    passes, shapes = document["passes"], document["shapes"]
    pass_ms = {name: passes[name]["median_ms"]["1"] for name in ("draft", "target")}
    ratio = pass_ms["draft"] / pass_ms["target"]
    share = shapes["8B"]["share_of_bandwidth"] if "8B" in shapes else None
    found.append(Goal("plain's share of the bandwidth at 8B", 0.75, share))
    found.append(Goal("a draft pass in target passes", 1 / 8, ratio, is_limit=True))
    return found


_SPEED_GOALS = {0.0: (8.0, 3.16, 2.5), 1.0: (5.0, 1.98, 2.0)}
"""By temperature: staged in the loop's speed, the same in the paper, staged in plain's."""

_TRAFFIC_OF_PAPER = {0.0: {"chain": 0.31, "staged": 0.23}, 1.0: {"chain": 0.48, "staged": 0.35}}
"""Relative memory traffic in the paper's table: speculation with a chain, and staged."""


def _goals_at(measured: Figures) -> list[Goal]:
    temperature = measured["temperature"]
    rows = {row["mode"]: row for row in measured["rows"]}

    def of(row: str, key: str) -> float | None:
        return rows[row][key] if row in rows else None

    at = f"T = {temperature:g}: "
    over_loop, paper, over_plain = _SPEED_GOALS[temperature]
    found = [
        Goal(
            at + "staged in the loop's speed",
            over_loop,
            of("staged", "ratio_to_loop"),
            False,
            paper,
        ),
        Goal(at + "staged in plain's speed", over_plain, of("staged", "ratio_to_plain")),
        Goal(at + "host's share of a staged step", 0.1, of("staged", "share_host"), True),
    ]
    found += [
        Goal(at + f"weight traffic of {row}", None, of(row, "traffic"), paper=traffic)
        for row, traffic in _TRAFFIC_OF_PAPER[temperature].items()
    ]
    if temperature == 0:
        share = of(PLAIN, "share_of_bandwidth")
        found.append(Goal(at + "plain's share of the bandwidth at 762M", 0.45, share))
    return found
