"""Our own kernels for CPUs, in C++: matrix products and attention of the few rows of a tree.

The machine's compiler builds them once (`build`), in the process that compiles passes; whoever
finds the library in its folder uses it (`load`), after it has proven itself. Beside them,
`triton_attention`, `triton_dots` and `triton_noise` are for GPUs; they are imported by their own
names, and Triton when one is first called.
"""

from engine.kernels.library import build, describe_machine, is_loaded, load, refusal, shims

__all__ = ["build", "describe_machine", "is_loaded", "load", "refusal", "shims"]
