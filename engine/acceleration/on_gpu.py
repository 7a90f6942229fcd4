"""Passes captured as CUDA graphs, a few widths at a time."""

import math
from collections.abc import Callable
from functools import cached_property

from engine import attention
from engine.acceleration.base import Acceleration, Scorers, run_by
from engine.config import EngineConfig
from engine.kernels import triton_dots
from engine.passes import CapturedRunner, Record
from engine.weights import lay_out

_START_SECONDS, _PAUSE_SECONDS = 10.0, 2.0
"""For which the start and a pause between requests are spent on recording one network's passes."""


class OnGpu(Acceleration):
    """Graphs recorded by `record`, of passes over our attention and products where usable.

    Torch's compiler fuses their kernels first, unless nothing is to be compiled now.
    """

    def __init__(self, config: EngineConfig, scorers: Scorers, record: Record) -> None:
        super().__init__(config, scorers)
        self._record = record

    @cached_property
    def runners(self) -> dict[str, CapturedRunner]:
        """What runs each network's passes."""
        return {name: run_by(scorer, CapturedRunner) for name, scorer in self._scorers.items()}

    @property
    def is_under_way(self) -> bool:
        """Whether some widths are run eagerly still."""
        return any(runner.is_uncaptured for runner in self.runners.values())

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Capture the widths that matter most, or all of them if that is to be waited for."""
        for scorer in self._scorers.values():
            is_quantised = scorer.precision.is_quantised
            lay_out(scorer.network, has_kernels=is_quantised and triton_dots.is_usable())
            if attention.has_gpu_kernel():
                attention.use(scorer.network, attention.GPU_KERNEL)
        announce("capturing passes")
        is_waiting = self._config.compile == "wait"
        return self._capture(math.inf if is_waiting else _START_SECONDS)

    def change_over(self) -> bool:
        """Capture more; whether there was any."""
        return self._capture(_PAUSE_SECONDS)

    def _capture(self, seconds: float) -> bool:
        """Record passes of every network, each for about so long; whether there were any."""
        is_fused = self._config.compile != "cached"
        runners = self.runners.values()
        return any([runner.capture(seconds, self._record, is_fused) for runner in runners])
