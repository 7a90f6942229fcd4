"""What speeds a machine and a loaded engine allow, and what they reach: memory, passes, modes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.api import Engine
from engine.benchmark.figures import Result
from engine.benchmark.hardware import cpp_compiler, machine, measured_bandwidth
from engine.benchmark.measure import Comparison, Workload, compare
from engine.benchmark.modes import PLAIN, Mode
from engine.economy import TARGET_PASS
from engine.request import ModelInfo
from engine.weights import bytes_read

WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class PassCosts:
    """What passes of one network cost: milliseconds by rows, as timed before the first request.

    `floor_ms` is the time in which this machine reads the weights, `weight_bytes`, from memory.
    """

    name: str
    form: str
    weight_bytes: int
    floor_ms: float
    milliseconds: dict[int, float]

    @property
    def ratio_to_floor(self) -> float:
        """How often the weights could be read in a pass over one row; below 1 they are cached."""
        return self.milliseconds[1] / self.floor_ms

    def in_single_passes(self, rows: int) -> float:
        """A pass over so many rows in passes over one."""
        return self.milliseconds[rows] / self.milliseconds[1]


@dataclass(frozen=True, slots=True)
class Examination:
    """The machine, what was loaded on it, what its passes cost, and every mode as it ran.

    `load_average` is how many processes wanted a core in the minute before it was loaded.
    """

    machine: dict[str, str | int]
    load_average: float
    bytes_per_second: float
    cpp_compiler: str | None
    info: ModelInfo
    passes: tuple[PassCosts, ...]
    comparison: Comparison

    @property
    def target(self) -> PassCosts:
        """The target's passes; those of the stages follow in `passes`."""
        return self.passes[0]

    @property
    def slowdown(self) -> float:
        """The target's pass over one row while it wrote, in the time it took before."""
        return self.results[PLAIN].phases_ms[TARGET_PASS] / self.target.milliseconds[1]

    @property
    def results(self) -> dict[str, Result]:
        """The figures of every mode by its name."""
        return {result.mode: result for result in self.comparison.results}


def examine(
    engine: Engine,
    modes: Sequence[Mode],
    workload: Workload,
    repetitions: int,
    load_average: float,
    on_run: Callable[[str], None] = lambda _: None,
) -> Examination:
    """Measure memory, read off what passes cost, and run `modes`, of which the first is plain.

    Raises what `compare` raises.
    """
    on_run("memory")
    bytes_per_second = measured_bandwidth(engine.info.device)
    passes = _pass_costs(engine, bytes_per_second)
    return Examination(
        machine=machine(),
        load_average=load_average,
        bytes_per_second=bytes_per_second,
        cpp_compiler=cpp_compiler(),
        info=engine.info,
        passes=passes,
        comparison=compare(engine, modes, workload, repetitions, on_run),
    )


def _pass_costs(engine: Engine, bytes_per_second: float) -> tuple[PassCosts, ...]:
    read = {name: bytes_read(scorer.network) for name, scorer in engine.scorers.items()}
    return tuple(
        PassCosts(
            name,
            form,
            read[name],
            1e3 * read[name] / bytes_per_second,
            {rows: engine.costs.curve(name)(rows) for rows in WIDTHS},
        )
        for name, form in engine.info.passes.items()
    )
