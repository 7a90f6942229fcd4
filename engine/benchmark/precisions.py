"""Plain decoding in other precisions: what a ratio to plain of one's own leaves unsaid."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from engine.api import Engine
from engine.benchmark.measure import Workload, compare
from engine.benchmark.modes import PLAIN, Mode
from engine.config import Dtype, EngineConfig


def plain_speeds(
    config: EngineConfig, dtypes: Iterable[Dtype], workloads: Sequence[Workload], repetitions: int
) -> dict[str, list[float]]:
    """Tokens a second of plain decoding by precision, for each of the workloads.

    Each is loaded by itself, one after the other, so they are not interleaved; its text is its own.
    Raises as `Engine.load` does.
    """
    speeds = {}
    for dtype in dtypes:
        engine = Engine.load(replace(config, dtype=dtype, stages=(), alternatives=()))
        found = [compare(engine, [Mode(PLAIN, (), "off")], w, repetitions) for w in workloads]
        speeds[engine.info.dtype] = [each.results[0].tokens_per_second for each in found]
    return speeds
