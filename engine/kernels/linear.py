"""Matrix products over packed weights; `linear.cpp` says how they are laid out, and why."""

from typing import cast

import torch
from torch import Tensor


def pack(weight: Tensor) -> Tensor:
    """Weights (out, in) as panels (panels, in, panel size): bfloat16 if that loses nothing."""
    return cast(Tensor, torch.ops.stagetree.pack_linear(weight))


def unpack(panels: Tensor, out_features: int) -> Tensor:
    """The weights (out, in) that were packed, in float32."""
    return cast(Tensor, torch.ops.stagetree.unpack_linear(panels, out_features))


def multiply(inputs: Tensor, panels: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """Inputs (..., in) times packed weights: (..., out), in the inputs' precision.

    All arithmetic is in float32. A row's figures do not depend on how many rows there are.
    """
    return cast(Tensor, torch.ops.stagetree.linear_float32(inputs, panels, bias, out_features))


def register() -> None:
    """Tell torch the shapes, by which compilers trace what they do not run."""
    torch.library.register_fake("stagetree::linear_float32", _shape_of_linear)


def _shape_of_linear(
    inputs: Tensor, panels: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], out_features))


def check() -> None:
    """Raise ValueError unless products are right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, size in ((1, 37), (7, 130), (29, 20)):
        weight = torch.randn(3 * size, size, generator=generator)
        bias = torch.randn(3 * size, generator=generator)
        inputs = torch.randn(rows, size, generator=generator)
        for exact in (weight, weight.bfloat16().float()):
            panels = pack(exact)
            expected = torch.nn.functional.linear(inputs, exact, bias)
            output = multiply(inputs, panels, bias, 3 * size)
            if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4):
                raise ValueError(f"a product of {rows} rows is wrong")
            if not torch.equal(unpack(panels, 3 * size), exact):
                raise ValueError("weights do not survive their packing")
