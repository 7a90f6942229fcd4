"""Products over weights in int8 or bfloat16, by dot products; `dots.h` says how, and why so."""

from typing import cast

import torch
from torch import Tensor

OUTPUTS = 16
"""Of a panel of weights."""

GROUP = 32
"""Inputs that are rounded to int8 together, with one scale."""


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as int8, of 127 at most, and the scale of each output, float32 (out,)."""
    scales = weight.float().abs().amax(1) / 127
    divisors = torch.where(scales > 0, scales, 1.0)[:, None]
    return (weight.float() / divisors).round_().clamp_(-127, 127).to(torch.int8), scales


def pack_int8(weight: Tensor) -> Tensor:
    """Weights (out, in) of int8, none of -128, as panels of bytes."""
    return cast(Tensor, torch.ops.stagetree.pack_int8(weight))


def unpack_int8(panels: Tensor, out_features: int, in_features: int) -> Tensor:
    """The weights (out, in) that were packed."""
    return cast(Tensor, torch.ops.stagetree.unpack_int8(panels, out_features, in_features))


def multiply_int8(
    inputs: Tensor, panels: Tensor, scales: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    """Inputs (..., in), rounded to int8 by groups of a row, times packed weights: (..., out).

    The products of a group are summed up as integers, groups in float32. A row's figures do not
    depend on how many rows there are, nor on the processor.
    """
    output = torch.ops.stagetree.linear_int8(inputs, panels, scales, bias, out_features)
    return cast(Tensor, output)


def pack_bfloat16(weight: Tensor) -> Tensor:
    """Weights (out, in), rounded to bfloat16, as panels."""
    return cast(Tensor, torch.ops.stagetree.pack_bfloat16(weight))


def unpack_bfloat16(panels: Tensor, out_features: int, in_features: int) -> Tensor:
    """The weights (out, in) that were packed, in bfloat16."""
    return cast(Tensor, torch.ops.stagetree.unpack_bfloat16(panels, out_features, in_features))


def multiply_bfloat16(
    inputs: Tensor, panels: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    """Inputs (..., in), rounded to bfloat16, times packed weights: (..., out), summed in float32.

    A row's figures do not depend on how many rows there are, nor on the processor.
    """
    return cast(Tensor, torch.ops.stagetree.linear_bfloat16(inputs, panels, bias, out_features))


def register() -> None:
    """Tell torch the shapes, by which compilers trace what they do not run."""
    for name in ("int8", "bfloat16"):
        torch.library.register_fake(f"stagetree::linear_{name}", _shape_of_linear)


def _shape_of_linear(inputs: Tensor, *given: object) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], cast(int, given[-1])))


def check() -> None:
    """Raise ValueError unless products are right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, size in ((1, 37), (7, 130), (29, 20)):
        weight = torch.randn(3 * size, size, generator=generator)
        bias = torch.randn(3 * size, generator=generator)
        inputs = torch.randn(rows, size, generator=generator)
        _check_int8(inputs, weight, bias)
        _check_bfloat16(inputs, weight, bias)


def _check_int8(inputs: Tensor, weight: Tensor, bias: Tensor) -> None:
    quantised, scales = quantise(weight)
    panels = pack_int8(quantised)
    if not torch.equal(unpack_int8(panels, *weight.shape), quantised):
        raise ValueError("weights in int8 do not survive their packing")
    expected = torch.nn.functional.linear(rounded(inputs), quantised * scales[:, None], bias)
    output = multiply_int8(inputs, panels, scales, bias, len(weight))
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(f"a product of {len(inputs)} rows in int8 is wrong")


def _check_bfloat16(inputs: Tensor, weight: Tensor, bias: Tensor) -> None:
    panels = pack_bfloat16(weight)
    if not torch.equal(unpack_bfloat16(panels, *weight.shape), weight.bfloat16()):
        raise ValueError("weights in bfloat16 do not survive their packing")
    near = (inputs.bfloat16().float(), weight.bfloat16().float())
    expected = torch.nn.functional.linear(*near, bias)
    output = multiply_bfloat16(inputs, panels, bias, len(weight))
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(f"a product of {len(inputs)} rows in bfloat16 is wrong")


def rounded(inputs: Tensor) -> Tensor:
    """Inputs (..., in) as int8 holds them, group by group, in float32."""
    size = inputs.shape[-1]
    padded = torch.nn.functional.pad(inputs.float(), (0, -size % GROUP))
    groups = padded.view(*inputs.shape[:-1], -1, GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 1e-30, 127 / largest, 0.0)
    rounded = (groups * inverse).round() * (largest / 127)
    return rounded.view_as(padded)[..., :size]
