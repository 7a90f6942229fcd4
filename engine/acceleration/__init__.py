"""How an engine's passes become fast: kernels and packages on a CPU, captured graphs on a GPU.

`accelerate` chooses by the configuration and the device. Whatever takes long is done while the
engine serves, and changed over to between two requests: on a CPU by another process, which
`background.py` holds and `engine.compiling` is the program of; on a GPU a few passes in each pause.
How a pass itself is compiled, captured and proven is known to `engine.passes`.
"""

from engine.acceleration.background import BackgroundCompiler
from engine.acceleration.base import Acceleration, AsLoaded, Scorers, run_by
from engine.acceleration.on_cpu import OnCpu, compile_passes, danger_in
from engine.acceleration.on_gpu import OnGpu
from engine.config import EngineConfig
from engine.passes import CudaRecorder

__all__ = [
    "AsLoaded",
    "BackgroundCompiler",
    "OnCpu",
    "OnGpu",
    "accelerate",
    "compile_passes",
    "run_by",
]


def accelerate(
    config: EngineConfig, scorers: Scorers, compiler: BackgroundCompiler
) -> Acceleration:
    """What the configuration and the device of these networks allow."""
    device = next(iter(scorers.values())).device.type
    if config.compile != "never" and device == "cpu":
        if (danger := danger_in(compiler.folder)) is None:
            return OnCpu(config, scorers, compiler)
        return AsLoaded(config, scorers, danger)
    if config.compile != "never" and device == "cuda":
        return OnGpu(config, scorers, CudaRecorder())
    return AsLoaded(config, scorers)
