"""Products over weights in integers on a GPU; `dot_programs.py` says how they are computed.

Nothing waits for the device, and no launch depends on a tensor's contents, so a call can be
recorded in a CUDA graph once another has compiled it. Triton is imported when the first product is
computed.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from engine.kernels.dots import GROUP, Codes, paired, parted, quantise, rounded
from engine.kernels.proof import holds

_QUAD = 4
"""Groups whose scales are read together, and whose inputs are rounded by one program."""


class Laid(NamedTuple):
    """Codes in the order in which programs read them, group by group.

    `values` (groups, outputs, `GROUP`) are int8; with minima they are uint8 of half that length,
    each with a code in its lower bits and the next one above. `halves` (1 or 2, groups / 4,
    outputs, 4) are scales and then minima, of half precision.
    """

    values: Tensor
    halves: Tensor


def lay_out(codes: Codes) -> Laid:
    """Codes as programs read them, on the device where they are."""
    out, size = codes.values.shape
    padded = torch.nn.functional.pad(codes.values, (0, -size % GROUP))
    values = padded.view(out, -1, GROUP).transpose(0, 1)
    if codes.minima is not None:
        values = paired(values)
    halves = torch.stack([part for part in codes[1:] if part is not None])
    padded = torch.nn.functional.pad(halves, (0, -len(values) % _QUAD))
    quads = padded.view(len(halves), out, -1, _QUAD).transpose(1, 2)
    return Laid(values.contiguous(), quads.contiguous())


def codes_of(laid: Laid, in_features: int) -> Codes:
    """The codes (out, in) that were laid out."""
    values = laid.values
    halves = laid.halves.transpose(1, 2).flatten(2)[..., : len(values)].contiguous()
    if len(halves) == 2:
        values = parted(values)
    values = values.transpose(0, 1).flatten(1)[:, :in_features].contiguous()
    return Codes(values, halves[0], halves[1] if len(halves) == 2 else None)


def is_usable() -> bool:
    """Whether the GPU of this process computes by this kernel what it should; tried once."""
    return holds(check, "weights in integers are widened for torch's own product")


def check(device: str) -> None:
    """Raise ValueError unless products are right there, or whatever Triton raises."""
    generator = torch.Generator().manual_seed(0)
    for rows, size in ((1, 37), (7, 130), (29, 320)):
        weight = torch.randn(3 * size, size, generator=generator)
        inputs = torch.randn(rows, size, generator=generator).to(device)
        for bits in (8, 4):
            codes = quantise(weight.to(device), bits)
            output = multiply(inputs, lay_out(codes), None)
            expected = torch.nn.functional.linear(rounded(inputs).cpu(), codes.plain().cpu())
            if not torch.allclose(output.cpu(), expected, rtol=1e-4, atol=1e-4):
                raise ValueError(f"a product of {rows} rows in {bits} bits is wrong")


def multiply(inputs: Tensor, laid: Laid, bias: Tensor | None) -> Tensor:
    """Inputs (..., in), rounded to int8 by groups of a row, times weights: (..., out).

    The products of a group are summed up as integers, groups in float32, one after another: a row's
    figures do not depend on how many rows there are, and are those of `dots.multiply`, to the bit.
    """
    output = cast(Tensor, _multiply(inputs, *laid))
    return output if bias is None else output + bias


@torch.library.custom_op("stagetree::linear_triton", mutates_args=())
def _multiply(inputs: Tensor, values: Tensor, halves: Tensor) -> Tensor:
    """The operator below `multiply`."""
    from engine.kernels import dot_programs as programs

    groups, out, size = len(values), values.shape[1], inputs.shape[-1]
    if -(-size // GROUP) != groups:
        raise ValueError(f"weights of {groups} groups of {GROUP} inputs are not for {size} of them")
    given = inputs.reshape(-1, size).float().contiguous()
    rows = len(given)
    output = given.new_empty(rows, out)
    if rows == 0:
        return _like(inputs, output)
    codes = given.new_empty(groups, rows, GROUP, dtype=torch.int8)
    scales, masses = given.new_empty(2, groups, rows)
    block, at_once, num_warps = (64, 64, 4) if rows > 16 else (16, 16, 1)  # neither was tuned
    with torch.cuda.device_of(given):  # type: ignore[no-untyped-call]
        programs.round_rows[rows, -(-groups // _QUAD)](
            *(given, codes, scales, masses, size, groups),
            BLOCK=_QUAD,
            num_warps=1,
            enable_fp_fusion=False,
        )
        programs.multiply_rows[-(-out // block), -(-rows // at_once)](
            *(codes, scales, masses, values, halves, output, rows, out, groups),
            HAS_MINIMA=len(halves) == 2,
            ROWS=at_once,
            BLOCK=block,
            num_warps=num_warps,
            num_stages=4,
            enable_fp_fusion=False,
        )
    return _like(inputs, output)


def _like(inputs: Tensor, output: Tensor) -> Tensor:
    return output.view(*inputs.shape[:-1], output.shape[1]).to(inputs.dtype)


@_multiply.register_fake
def _(inputs: Tensor, values: Tensor, halves: Tensor) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], values.shape[1]))
