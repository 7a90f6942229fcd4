"""Modes of decoding measured side by side.

    modes = modes_of(engine.config.stages)
    for result in compare(engine, modes, Workload(prompts, 64, SamplingParams()), 5).results:
        print(result.mode, result.ratio_to_plain)

It needs torch, transformers and numpy alone.
"""

import os

from engine.program import short_spins

os.environ.update(short_spins())  # before torch is loaded

from engine.benchmark.curves import Best
from engine.benchmark.doctor import WIDTHS, Examination, PassCosts, examine
from engine.benchmark.figures import Divergence, Result, Run, ratio_interval, result_of
from engine.benchmark.fit import Fit, Gain, break_even, fit_of, gain_of
from engine.benchmark.grown_checkpoint import SIZES, LlamaShape, grow_checkpoint, grown
from engine.benchmark.hardware import machine, measured_bandwidth
from engine.benchmark.inputs import SAMPLINGS, read_prompts
from engine.benchmark.measure import (
    Comparison,
    Passage,
    Workload,
    compare,
    parted,
    passages_of,
    run_mode,
)
from engine.benchmark.modes import PLAIN, Mode, configured_mode, modes_by_size, modes_of, resized
from engine.benchmark.passes import pass_times
from engine.benchmark.precisions import plain_speeds
from engine.benchmark.replay import ReplayEngine, ReplayStageConfig, expected_length, record
from engine.benchmark.ties import gap, rounding

__all__ = [
    "PLAIN",
    "SAMPLINGS",
    "SIZES",
    "WIDTHS",
    "Best",
    "Comparison",
    "Divergence",
    "Examination",
    "Fit",
    "Gain",
    "LlamaShape",
    "Mode",
    "PassCosts",
    "Passage",
    "ReplayEngine",
    "ReplayStageConfig",
    "Result",
    "Run",
    "Workload",
    "break_even",
    "compare",
    "configured_mode",
    "examine",
    "expected_length",
    "fit_of",
    "gain_of",
    "gap",
    "grow_checkpoint",
    "grown",
    "machine",
    "measured_bandwidth",
    "modes_by_size",
    "modes_of",
    "parted",
    "pass_times",
    "passages_of",
    "plain_speeds",
    "ratio_interval",
    "read_prompts",
    "record",
    "resized",
    "result_of",
    "rounding",
    "run_mode",
]
