"""How forward passes are run: eagerly, compiled ahead of time, or captured as CUDA graphs.

A pass is a function of tensors (`PassFunction`), and a runner (`PassRunner`) calls it in the
fastest form there is. Compiling takes a minute, so another process does it (`engine.compiling`),
once for a network and a machine, and the runner changes over when the file is there.
"""

from engine.passes.captured import CudaRecorder, Record
from engine.passes.crowd import CROWD
from engine.passes.function import Example, Form, PassFunction, PassInputs
from engine.passes.packed import PackedLinear, pack
from engine.passes.parcel import Parcel
from engine.passes.runner import PassRunner

__all__ = [
    "CROWD",
    "CudaRecorder",
    "Example",
    "Form",
    "PackedLinear",
    "Parcel",
    "PassFunction",
    "PassInputs",
    "PassRunner",
    "Record",
    "pack",
]
