"""How forward passes are run: eagerly, or compiled ahead of time.

A pass is a function of tensors (`PassFunction`), and a runner (`PassRunner`) calls it in the
fastest form there is. Compiling takes a minute, so another process does it (`engine.compiling`),
once for a network and a machine, and the runner changes over when the file is there.
"""

from engine.passes.crowd import CROWD
from engine.passes.function import PassFunction, PassInputs
from engine.passes.package import MAX_WIDTH, Example
from engine.passes.packed import PackedLinear, pack
from engine.passes.runner import Form, PassRunner

__all__ = [
    "CROWD",
    "MAX_WIDTH",
    "Example",
    "Form",
    "PackedLinear",
    "PassFunction",
    "PassInputs",
    "PassRunner",
    "pack",
]
