"""Products of one input are one call of a compiled pass, with the figures that they have alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.kernels import dots
from engine.passes.merging import merge_products
from engine.weights import IntegerLinear
from engine.weights.kernel import (
    BFloat16KernelLinear,
    IntegerKernelLinear,
    PanelLinear,
)


def layer(out: int, bits: int, has_bias: bool) -> PanelLinear:
    bias = torch.randn(out) if has_bias else None
    weight = torch.randn(out, 64)
    if bits == 16:
        return BFloat16KernelLinear(weight.bfloat16(), None if bias is None else bias.bfloat16())
    return IntegerKernelLinear(IntegerLinear(dots.quantise(weight, bits), bias, torch.float32))


class Gated(nn.Module):
    """Three products of one input in so many bits, one in other bits, and one of another input."""

    def __init__(self, bits: int, other: int) -> None:
        super().__init__()
        kinds = (
            (40, bits, False),
            (64, bits, True),
            (64, bits, False),
            (64, other, False),
            (8, bits, False),
        )
        self.layers = nn.ModuleList(layer(*kind) for kind in kinds)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        query, gate, up, wide, down = self.layers
        return query(inputs), wide(inputs), down(gate(inputs).sigmoid() * up(inputs))


def called(program: torch.export.ExportedProgram) -> list[str]:
    names = [str(node.target) for node in program.graph.nodes if "stagetree" in str(node.target)]
    return sorted(name.split(".")[1] for name in names)


@pytest.mark.parametrize(
    ("bits", "other", "together", "alone"),
    [
        (4, 8, "products_int4", ["linear_int4", "linear_int8"]),
        (8, 4, "products_int8", ["linear_int8", "linear_int4"]),
    ],
)
def test_products_of_one_input_are_called_together(
    cache: Path, bits: int, other: int, together: str, alone: list[str]
) -> None:
    """Red when what is merged changes places, loses its bias, or is of another kind or input."""
    torch.manual_seed(0)
    network, inputs = Gated(bits, other), torch.randn(5, 64)
    with torch.no_grad():
        program = torch.export.export(network, (inputs,), strict=False)
        merge_products(program)
        merged = program.module()(inputs)
        assert all(map(torch.equal, merged, network(inputs)))
    assert called(program) == sorted([*alone, together])


def test_a_bias_is_added_before_what_is_rounded(cache: Path) -> None:
    """Red when a product in bfloat16 is merged that has a bias, and is rounded twice then."""
    torch.manual_seed(0)
    network, inputs = Gated(16, 8), torch.randn(5, 64).bfloat16()
    with torch.no_grad():
        program = torch.export.export(network, (inputs,), strict=False)
        merge_products(program)
        assert all(map(torch.equal, program.module()(inputs), network(inputs)))
    assert called(program) == [
        "linear_bfloat16",
        "linear_bfloat16",
        "linear_int8",
        "products_bfloat16",
    ]
