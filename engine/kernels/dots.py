"""Products over weights in integers or bfloat16, by dot products.

`integers.h`, `bfloat16.h` and `tiles.h` say how, and why so.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

OUTPUTS = 16
"""Of a panel of weights."""

GROUP = 32
"""Inputs that are rounded together, and weights of an output, with one scale."""


class Codes(NamedTuple):
    """Weights in few bits, by groups of `GROUP` inputs: scale * code, or with a minimum added.

    `values` (out, in) are int8 of 127 at most; with minima uint8 of 15 at most. `scales` and
    `minima` (out, groups) are of half precision.
    """

    values: Tensor
    scales: Tensor
    minima: Tensor | None

    def plain(self) -> Tensor:
        """The weights (out, in) in float32, which holds them exactly but for a last bit."""
        size = self.values.shape[-1]
        values = self.values.contiguous().float()
        if missing := -size % GROUP:
            values = torch.nn.functional.pad(values, (0, missing))
        groups = values.view(*values.shape[:-1], -1, GROUP)
        groups *= self.scales.float().unsqueeze(-1)
        if self.minima is not None:
            groups += self.minima.float().unsqueeze(-1)
        return values[..., :size]


def quantise(weight: Tensor, bits: int) -> Codes:
    """Weights (out, in) in 8 or 4 bits.

    In 8 the largest of a group becomes 127, in 4 the least becomes 0 and the largest 15.
    """
    size = weight.shape[1]
    padded = torch.nn.functional.pad(weight.float(), (0, -size % GROUP))
    groups = padded.view(len(weight), -1, GROUP)
    minima = None
    if bits == 8:
        scales, most = groups.abs().amax(-1) / 127, (-127, 127)
    else:
        # What pads is no weight: it must not widen the range of those that are.
        if size % GROUP:
            groups[:, -1, size % GROUP :] = groups[:, -1, :1]
        minima = groups.amin(-1).half()
        scales, most = (groups.amax(-1) - minima.float()) / 15, (0, 15)
        groups = groups - minima.float()[..., None]
    scales = scales.half()
    divisors = torch.where(scales > 0, scales.float(), 1.0)[..., None]
    codes = (groups / divisors).round_().clamp_(*most).view(len(weight), -1)[:, :size]
    return Codes(codes.to(torch.int8 if bits == 8 else torch.uint8), scales, minima)


def paired(codes: Tensor) -> Tensor:
    """Codes of 4 bits (..., n), of which n is even, two in a byte: (..., n / 2)."""
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def parted(pairs: Tensor) -> Tensor:
    """The codes (..., n) that were put in pairs."""
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)


class Panels(NamedTuple):
    """Codes as products read them: those of `OUTPUTS` outputs together, and so their halves."""

    codes: Tensor
    halves: Tensor
    """(panels, groups, scales and then minima), of half precision."""


def pack(codes: Codes) -> Panels:
    """Codes in panels."""
    operators = torch.ops.stagetree
    packing = operators.pack_int8 if codes.minima is None else operators.pack_int4
    halves = [part for part in codes[1:] if part is not None]
    missing = -len(codes.values) % OUTPUTS
    padded = [torch.nn.functional.pad(part, (0, 0, 0, missing)) for part in halves]
    of_panels = [part.view(-1, OUTPUTS, part.shape[1]).transpose(1, 2) for part in padded]
    return Panels(packing(codes.values), torch.cat(of_panels, -1).contiguous())


def unpack(panels: Panels, out_features: int, in_features: int) -> Codes:
    """The codes (out, in) that were packed."""
    has_minima = panels.halves.shape[2] > OUTPUTS
    operators = torch.ops.stagetree
    unpacking = operators.unpack_int4 if has_minima else operators.unpack_int8
    parts = [
        part.transpose(1, 2).reshape(-1, part.shape[1])[:out_features].contiguous()
        for part in panels.halves.chunk(1 + has_minima, -1)
    ]
    values = unpacking(panels.codes, out_features, in_features)
    return Codes(values, parts[0], parts[1] if has_minima else None)


def multiply(inputs: Tensor, panels: Panels, bias: Tensor | None, out_features: int) -> Tensor:
    """Inputs (..., in), rounded to int8 by groups of a row, times packed weights: (..., out).

    The products of a group are summed up as integers, groups in float32. A row's figures do not
    depend on how many rows there are, nor on the processor.
    """
    operators = torch.ops.stagetree
    has_minima = panels.halves.shape[2] > OUTPUTS
    linear = operators.linear_int4 if has_minima else operators.linear_int8
    return cast(Tensor, linear(inputs, *panels, bias, out_features))


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

    A row's figures do not depend on how many rows there are, nor on the processor, unless it has
    AMX and this process may use it.
    """
    return cast(Tensor, torch.ops.stagetree.linear_bfloat16(inputs, panels, bias, out_features))


def register() -> None:
    """Tell torch the shapes, by which compilers trace what they do not run."""
    for name in ("int8", "int4", "bfloat16"):
        torch.library.register_fake(f"stagetree::linear_{name}", _shape_of_linear)
        torch.library.register_fake(f"stagetree::products_{name}", _shapes_of_products)


def _shape_of_linear(inputs: Tensor, *given: object) -> Tensor:
    return inputs.new_empty((*inputs.shape[:-1], cast(int, given[-1])))


def _shapes_of_products(inputs: Tensor, *given: object) -> list[Tensor]:
    """Of products of the same inputs with several matrices; the last given are their outputs."""
    outs = cast(Sequence[int], given[-1])
    return [inputs.new_empty((*inputs.shape[:-1], out)) for out in outs]


def check() -> None:
    """Raise ValueError unless products are right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, size in ((1, 37), (7, 130), (17, 330), (29, 20)):
        weight = torch.randn(3 * size, size, generator=generator)
        bias = torch.randn(3 * size, generator=generator)
        inputs = torch.randn(rows, size, generator=generator)
        for bits in (8, 4):
            _check_integers(inputs, quantise(weight, bits), bias)
        _check_bfloat16(inputs, weight, bias)


def _check_integers(inputs: Tensor, codes: Codes, bias: Tensor) -> None:
    panels, shape = pack(codes), codes.values.shape
    if not all(map(torch.equal, unpack(panels, *shape)[:2], codes[:2])):
        raise ValueError("weights in integers do not survive their packing")
    expected = torch.nn.functional.linear(rounded(inputs), codes.plain(), bias)
    output = multiply(inputs, panels, bias, len(bias))
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(f"a product of {len(inputs)} rows in integers is wrong")
    if not torch.equal(multiply(inputs[-1:], panels, bias, len(bias)), output[-1:]):
        raise ValueError(f"a row of {len(inputs)} in integers is another alone")
    operators = torch.ops.stagetree
    together = operators.products_int8 if codes.minima is None else operators.products_int4
    minima = None if codes.minima is None else codes.minima[:20]
    first = Codes(codes.values[:20], codes.scales[:20], minima)
    parts, outs = [pack(first), panels], [20, len(bias)]
    alone = [multiply(inputs, part, None, out) for part, out in zip(parts, outs, strict=True)]
    if not all(
        map(torch.equal, together(inputs, *map(list, zip(*parts, strict=True)), outs), alone)
    ):
        raise ValueError(f"products of {len(inputs)} rows in integers are others together")


def _check_bfloat16(inputs: Tensor, weight: Tensor, bias: Tensor) -> None:
    panels = pack_bfloat16(weight)
    if not torch.equal(unpack_bfloat16(panels, *weight.shape), weight.bfloat16()):
        raise ValueError("weights in bfloat16 do not survive their packing")
    near = (inputs.bfloat16().float(), weight.bfloat16().float())
    expected = torch.nn.functional.linear(*near, bias)
    output = multiply_bfloat16(inputs, panels, bias, len(weight))
    if not torch.allclose(output, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(f"a product of {len(inputs)} rows in bfloat16 is wrong")
    if not torch.equal(multiply_bfloat16(inputs[-1:], panels, bias, len(weight)), output[-1:]):
        raise ValueError(f"a row of {len(inputs)} in bfloat16 is another alone")
    alone = [multiply_bfloat16(inputs, each, None, len(weight)) for each in (panels, panels)]
    together = torch.ops.stagetree.products_bfloat16(inputs, [panels] * 2, [len(weight)] * 2)
    if not all(map(torch.equal, together, alone)):
        raise ValueError(f"products of {len(inputs)} rows in bfloat16 are others together")


def rounded(inputs: Tensor) -> Tensor:
    """Inputs (..., in) as int8 holds them, group by group, in float32."""
    size = inputs.shape[-1]
    padded = torch.nn.functional.pad(inputs.float(), (0, -size % GROUP))
    groups = padded.view(*inputs.shape[:-1], padded.shape[-1] // GROUP, GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 1e-30, 127 / largest, 0.0)
    rounded = (groups * inverse).round() * (largest / 127)
    return rounded.view_as(padded)[..., :size]
