"""Modes of decoding measured side by side.

    modes = modes_of(engine.stages)
    for result in compare(engine, modes, Workload(prompts, 64, SamplingParams()), 5).results:
        print(result.mode, result.ratio_to_plain)

It needs torch, transformers and numpy alone.
"""

from engine.benchmark.doctor import WIDTHS, Examination, PassCosts, examine
from engine.benchmark.figures import Result, ratio_interval
from engine.benchmark.growth import SIZES, LlamaShape, grow_checkpoint, grown
from engine.benchmark.hardware import machine, measured_bandwidth
from engine.benchmark.inputs import SAMPLINGS, read_prompts
from engine.benchmark.measure import Comparison, Workload, compare
from engine.benchmark.modes import Mode, configured_mode, modes_of, resized
from engine.benchmark.replay import ReplayEngine, ReplayStageConfig, expected_length, record

__all__ = [
    "SAMPLINGS",
    "SIZES",
    "WIDTHS",
    "Comparison",
    "Examination",
    "LlamaShape",
    "Mode",
    "PassCosts",
    "ReplayEngine",
    "ReplayStageConfig",
    "Result",
    "Workload",
    "compare",
    "configured_mode",
    "examine",
    "expected_length",
    "grow_checkpoint",
    "grown",
    "machine",
    "measured_bandwidth",
    "modes_of",
    "ratio_interval",
    "read_prompts",
    "record",
    "resized",
]
