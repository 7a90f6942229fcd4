"""How forward passes are run: eagerly, from a compiled package, or captured as CUDA graphs.

A pass is a function of tensors (`PassFunction`), and a runner calls it in the fastest form there
is: `EagerRunner` as it is, `CompiledRunner` from a package (`package.py`), which another process
compiles once for a network and a machine, `CapturedRunner` as recorded graphs (`graphs.py`), of
fused layers (`fused.py`). What is fast proves itself first (`proof.py`). Which of them a network
is to have, and when, is known to `engine.acceleration` alone.
"""

from engine.passes.captured import CapturedRunner
from engine.passes.compiled import CompiledRunner
from engine.passes.device_arrays import DeviceArrays
from engine.passes.function import (
    Example,
    Form,
    MakeExample,
    PassFunction,
    PassInputs,
    Record,
)
from engine.passes.graphs import CudaRecorder
from engine.passes.runner import EagerRunner

__all__ = [
    "CapturedRunner",
    "CompiledRunner",
    "CudaRecorder",
    "DeviceArrays",
    "EagerRunner",
    "Example",
    "Form",
    "MakeExample",
    "PassFunction",
    "PassInputs",
    "Record",
]
