"""Our own kernels for CPUs, in C++: matrix products of few rows over weights laid out for them.

The machine's compiler builds them once (`build`), in the process that compiles passes; whoever
finds the library in its folder uses it (`load`), after it has proven itself.
"""

from engine.kernels.library import build, describe_machine, is_loaded, load
from engine.kernels.linear import linear, pack_linear, unpack_linear

__all__ = [
    "build",
    "describe_machine",
    "is_loaded",
    "linear",
    "load",
    "pack_linear",
    "unpack_linear",
]
