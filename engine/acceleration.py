"""How an engine's passes become fast: kernels and packages on a CPU, captured graphs on a GPU.

Whatever takes long is done while the engine serves, and taken over between two requests.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from engine import attention, kernels
from engine.config import EngineConfig
from engine.passes import CudaRecorder, Record
from engine.passes.background import BackgroundCompiler
from engine.scorer import TreeScorer

_LARGEST_SHARE = 1 / 4
"""Of a machine's memory may be weights that are to be loaded once more, to be compiled."""
_CAPTURE_SECONDS = 2.0
"""For which the start and a pause between requests are spent on recording one network's passes."""

_log = logging.getLogger(__name__)
Scorers = Mapping[str, TreeScorer]


class Acceleration(ABC):
    """What is done for the passes of some networks, named as in `ModelInfo.passes`."""

    def __init__(self, config: EngineConfig, scorers: Scorers) -> None:
        self._config = config
        self._scorers = scorers

    @property
    def is_under_way(self) -> bool:
        """Whether there is more to come."""
        return False

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
            scorer.prepare(kernel=None)
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

    def _prepare(self) -> None:
        kernel = attention.CPU_KERNEL if kernels.is_loaded() else None
        for scorer in self._scorers.values():
            scorer.prepare(kernel)

    def _start_compiling(self) -> bool:
        """Begin to compile, in another process, what passes are still eager; whether any are."""
        num_bytes = sum(scorer.num_bytes for scorer in self._scorers.values())
        if num_bytes > _LARGEST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            _log.warning(
                "passes stay eager: whoever compiles them loads the weights once more, and these "
                "%.0f GB are too much of this machine's memory for that",
                num_bytes / 1e9,
            )
            return False
        runners = [scorer.runner for scorer in self._scorers.values()]
        missing = [runner.name for runner in runners if runner.is_missing(self._compiler.folder)]
        return self._compiler.start(self._config, missing)


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
            scorer.prepare(attention.GPU_KERNEL if attention.has_gpu_kernel() else None)
        announce("capturing passes")
        has_changed = self.adopt()
        while self._config.compile == "wait" and self.is_under_way:
            self.adopt()
        return has_changed

    def adopt(self) -> bool:
        """Capture more; whether there was any."""
        runners = [scorer.runner for scorer in self._scorers.values()]
        given = (_CAPTURE_SECONDS, self._record, self._config.compile != "cached")
        return any([runner.capture(*given) for runner in runners])


def accelerate(
    config: EngineConfig, scorers: Scorers, compiler: BackgroundCompiler
) -> Acceleration:
    """What the configuration and the device of these networks allow."""
    device = next(iter(scorers.values())).device.type
    if config.compile != "never" and device == "cpu":
        return CompiledPasses(config, scorers, compiler)
    if config.compile != "never" and device == "cuda":
        return CapturedPasses(config, scorers, CudaRecorder())
    return StockPasses(config, scorers)


def compile_passes(scorers: Scorers, folder: Path) -> list[str]:
    """Compile here and now, for other processes: a line for each network that refused.

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
        scorer.prepare(attention.CPU_KERNEL)
        try:
            if scorer.runner.is_missing(folder):
                scorer.runner.compile(folder)
        except Exception as error:  # a compiler may raise anything
            problems.append(f"the {name}: {type(error).__name__}: {error}")
    return problems
