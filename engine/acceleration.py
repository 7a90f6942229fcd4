"""How an engine's passes become fast: kernels and packages on a CPU, captured graphs on a GPU.

Whatever takes long is done while the engine serves, and taken over between two requests.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from engine import attention, kernels
from engine.code_cache import check_private
from engine.config import EngineConfig
from engine.memory import total_bytes
from engine.passes import CudaRecorder, Record
from engine.passes.background import BackgroundCompiler
from engine.scorer import TreeScorer
from engine.scratch import sweep
from engine.weights import bytes_loaded, lay_out

_LARGEST_SHARE = 1 / 3
"""Of a machine's memory may be weights that are to be loaded once more, to be compiled: both copies
and a compiler have room then."""
_START_SECONDS, _PAUSE_SECONDS = 10.0, 2.0
"""For which the start and a pause between requests are spent on recording one network's passes."""

_log = logging.getLogger(__name__)
Scorers = Mapping[str, TreeScorer]


class Acceleration(ABC):
    """What is done for the passes of some networks, named as in `ModelInfo.passes`."""

    def __init__(self, config: EngineConfig, scorers: Scorers, obstacle: str | None = None) -> None:
        self._config = config
        self._scorers = scorers
        self._obstacle = obstacle

    @property
    def is_under_way(self) -> bool:
        """Whether there is more to come."""
        return False

    @property
    def refusals(self) -> dict[str, str]:
        """Why passes stay eager that were to be fast, by the names of their networks."""
        runners = {name: scorer.runner for name, scorer in self._scorers.items()}
        eager = {name: each.refusal for name, each in runners.items() if each.form == "eager"}
        reasons = {name: reason or self._general_refusal for name, reason in eager.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @property
    def _general_refusal(self) -> str | None:
        """Why no passes are fast, whatever their network."""
        return self._obstacle

    @abstractmethod
    def settle(self, announce: Callable[[str], None]) -> bool:
        """Lay out the weights, take what there is, begin what takes long.

        `announce` is told what the engine waits for, if it does. Like `adopt`, it tells whether
        passes are others now, so that no cost is known any more.
        """

    def adopt(self) -> bool:
        """Change over to what is ready by now; whether that was anything."""
        return False


class StockPasses(Acceleration):
    """As transformers runs them, with weights laid out for the library's products."""

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Lay out the weights."""
        for scorer in self._scorers.values():
            lay_out(scorer.network, has_kernels=False)
        return False


class CompiledPasses(Acceleration):
    """Kernels of ours and passes compiled over them by another process, on a CPU."""

    def __init__(
        self, config: EngineConfig, scorers: Scorers, compiler: BackgroundCompiler
    ) -> None:
        super().__init__(config, scorers)
        self._compiler = compiler

    @property
    def is_under_way(self) -> bool:
        """Whether the compiling process is at work."""
        return self._compiler.is_running

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Take over what was compiled before; have the rest compiled, or wait until it is."""
        has_changed = self.adopt()
        if not kernels.is_loaded():
            self._prepare()
        if self._config.compile == "cached" or not self._start_compiling():
            return has_changed
        if self._config.compile == "wait":
            announce("compiling passes, a minute or two, once")
            self._compiler.wait()
            has_changed = self.adopt() or has_changed
        return has_changed

    def adopt(self) -> bool:
        """Take kernels and packages over that have been compiled meanwhile."""
        had_kernels = kernels.is_loaded()
        if not kernels.load(self._compiler.folder):
            return False
        self._prepare()
        runners = [scorer.runner for scorer in self._scorers.values()]
        has_new = any([runner.adopt(self._compiler.folder) for runner in runners])
        return has_new or not had_kernels

    @property
    def _general_refusal(self) -> str | None:
        known = (kernels.refusal(self._compiler.folder), self._compiler.failure, self._obstacle)
        return next(filter(None, known), None)

    def _prepare(self) -> None:
        has_kernels = kernels.is_loaded()
        for scorer in self._scorers.values():
            lay_out(scorer.network, has_kernels)
            if has_kernels:
                attention.use(scorer.network, attention.CPU_KERNEL)

    def _start_compiling(self) -> bool:
        """Begin to compile, in another process, what passes are still eager; whether any are.

        Where that cannot be, it is the kernels alone: eager passes are faster over them, too.
        """
        if kernels.refusal(self._compiler.folder):
            return False
        self._obstacle = self._obstacle_to_loading()
        if self._obstacle is not None:
            _log.warning("passes stay eager: %s", self._obstacle)
            return self._compiler.start(None, [] if kernels.is_loaded() else ["kernels"])
        runners = [scorer.runner for scorer in self._scorers.values()]
        missing = [runner.name for runner in runners if runner.is_missing(self._compiler.folder)]
        return self._compiler.start(self._config, missing)

    def _obstacle_to_loading(self) -> str | None:
        """Why the weights cannot be loaded once more, if so."""
        num_bytes = sum(bytes_loaded(each.network) for each in self._scorers.values())
        room = total_bytes()
        if room is None or num_bytes <= _LARGEST_SHARE * room:
            return None
        return (
            f"whoever compiles passes loads the weights once more, and these {num_bytes / 1e9:.1f} "
            "GB are too much of this machine's memory for that: only the kernels are compiled"
        )


class CapturedPasses(Acceleration):
    """Passes captured as CUDA graphs, a few widths at a time.

    Torch's compiler fuses their kernels first, unless nothing is to be compiled now.
    """

    def __init__(self, config: EngineConfig, scorers: Scorers, record: Record) -> None:
        super().__init__(config, scorers)
        self._record = record

    @property
    def is_under_way(self) -> bool:
        """Whether some widths are run eagerly still."""
        return any(scorer.runner.is_uncaptured for scorer in self._scorers.values())

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Capture the widths that matter most, or all of them if that is to be waited for."""
        for scorer in self._scorers.values():
            lay_out(scorer.network, has_kernels=False)
            if attention.has_gpu_kernel():
                attention.use(scorer.network, attention.GPU_KERNEL)
        announce("capturing passes")
        is_waiting = self._config.compile == "wait"
        return self._capture(math.inf if is_waiting else _START_SECONDS)

    def adopt(self) -> bool:
        """Capture more; whether there was any."""
        return self._capture(_PAUSE_SECONDS)

    def _capture(self, seconds: float) -> bool:
        """Record passes of every network, each for about so long; whether there were any."""
        runners = [scorer.runner for scorer in self._scorers.values()]
        is_fused = self._config.compile != "cached"
        return any([runner.capture(seconds, self._record, is_fused) for runner in runners])


def accelerate(
    config: EngineConfig, scorers: Scorers, compiler: BackgroundCompiler
) -> Acceleration:
    """What the configuration and the device of these networks allow."""
    device = next(iter(scorers.values())).device.type
    if config.compile != "never" and device == "cpu":
        if (danger := _danger_in(compiler.folder)) is None:
            return CompiledPasses(config, scorers, compiler)
        return StockPasses(config, scorers, danger)
    if config.compile != "never" and device == "cuda":
        return CapturedPasses(config, scorers, CudaRecorder())
    return StockPasses(config, scorers)


def _danger_in(folder: Path) -> str | None:
    """Why no code may be loaded from here or put here, if so; it is logged."""
    try:
        check_private(folder)
    except FileNotFoundError:
        return None  # whoever makes it does so for us alone
    except OSError as error:
        _log.warning("passes stay eager: %s", error)
        return str(error)
    sweep(folder)
    return None


def compile_passes(scorers: Scorers, folder: Path) -> list[str]:
    """Compile kernels and passes here and now, for other processes: a line for each that refused.

    Raises nothing, takes a minute or so.
    """
    try:
        kernels.build(folder)
    except (OSError, RuntimeError) as error:
        return [str(error)]
    if not kernels.load(folder):
        return [f"the kernels in {folder} are not used"]
    problems = []
    for name, scorer in scorers.items():
        lay_out(scorer.network, has_kernels=True)
        attention.use(scorer.network, attention.CPU_KERNEL)
        try:
            if scorer.runner.is_missing(folder):
                scorer.runner.compile(folder)
        except Exception as error:  # a compiler may raise anything
            problems.append(f"the {name}: {type(error).__name__}: {error}")
    return problems
