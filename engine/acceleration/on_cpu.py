"""Kernels of ours, and passes compiled over them by another process."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from engine import attention, kernels
from engine.acceleration.background import BackgroundCompiler
from engine.acceleration.base import Acceleration, Scorers, run_by
from engine.code_cache import check_private
from engine.config import EngineConfig
from engine.memory import total_bytes
from engine.passes import CompiledRunner
from engine.scratch import sweep
from engine.weights import bytes_loaded, lay_out

_LARGEST_SHARE = 1 / 3
"""Of a machine's memory may be weights that are to be loaded once more, to be compiled: both copies
and a compiler have room then."""

_log = logging.getLogger(__name__)


class OnCpu(Acceleration):
    """Takes over what the process of `compiler` has put into its folder."""

    def __init__(
        self, config: EngineConfig, scorers: Scorers, compiler: BackgroundCompiler
    ) -> None:
        super().__init__(config, scorers)
        self._compiler = compiler

    @cached_property
    def runners(self) -> dict[str, CompiledRunner]:
        """What runs each network's passes."""
        return {name: run_by(scorer, CompiledRunner) for name, scorer in self._scorers.items()}

    @property
    def is_under_way(self) -> bool:
        """Whether the compiling process is at work."""
        return self._compiler.is_running

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Take over what was compiled before; have the rest compiled, or wait until it is."""
        has_changed = self.change_over()
        if not kernels.is_loaded():
            lay_out_for_kernels(self._scorers)
        if self._config.compile == "cached" or not self._start_compiling():
            return has_changed
        if self._config.compile == "wait":
            announce("compiling passes, a minute or two, once")
            self._compiler.wait()
            has_changed = self.change_over() or has_changed
        return has_changed

    def change_over(self) -> bool:
        """Take kernels and packages over that have been compiled meanwhile."""
        had_kernels = kernels.is_loaded()
        if not kernels.load(self._compiler.folder):
            return False
        lay_out_for_kernels(self._scorers)
        runners = self.runners.values()
        has_new = any([runner.take_package(self._compiler.folder) for runner in runners])
        return has_new or not had_kernels

    @property
    def _general_refusal(self) -> str | None:
        known = (kernels.refusal(self._compiler.folder), self._compiler.failure, self._obstacle)
        return next(filter(None, known), None)

    def _start_compiling(self) -> bool:
        """Begin to compile, in another process, what passes are still eager; whether any are.

        Where that cannot be, it is the kernels alone: eager passes are faster over them, too.
        """
        if kernels.refusal(self._compiler.folder):
            return False
        self._obstacle = self._obstacle_to_loading()
        missing: list[str] = []
        if self._obstacle is not None:
            _log.warning("passes stay eager: %s", self._obstacle)
        else:
            runners, folder = self.runners.values(), self._compiler.folder
            missing = [runner.name for runner in runners if runner.is_missing(folder)]
        if missing:
            return self._compiler.start(self._config, missing)
        return self._compiler.start(None, [] if kernels.is_loaded() else ["kernels"])

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


def lay_out_for_kernels(scorers: Scorers) -> None:
    """Lay weights out for the kernels of this process and attend by them, if it has any."""
    has_kernels = kernels.is_loaded()
    for scorer in scorers.values():
        lay_out(scorer.network, has_kernels)
        if has_kernels:
            attention.use(scorer.network, attention.CPU_KERNEL)


def danger_in(folder: Path) -> str | None:
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
    lay_out_for_kernels(scorers)
    problems = []
    for name, scorer in scorers.items():
        try:
            runner = run_by(scorer, CompiledRunner)
            if runner.is_missing(folder):
                runner.compile(folder)
        except Exception as error:  # a compiler may raise anything
            problems.append(f"the {name}: {type(error).__name__}: {error}")
    return problems
