"""Modes of decoding measured side by side.

    modes = modes_of(engine.stages)
    for result in compare(engine, modes, Workload(prompts, 64, SamplingParams()), 5).results:
        print(result.mode, result.ratio_to_plain)

It needs torch, transformers and numpy alone.
"""

from engine.benchmark.figures import Result, ratio_interval
from engine.benchmark.hardware import machine
from engine.benchmark.measure import Comparison, Workload, compare
from engine.benchmark.modes import Mode, configured_mode, modes_of, resized

__all__ = [
    "Comparison",
    "Mode",
    "Result",
    "Workload",
    "compare",
    "configured_mode",
    "machine",
    "modes_of",
    "ratio_interval",
    "resized",
]
