"""Products of one input are one call of a compiled pass, with the figures that they have alone."""

from pathlib import Path

import torch
from torch import Tensor, nn

from engine.kernels import dots
from engine.passes.merging import merge_products
from engine.weights import IntegerLinear
from engine.weights.kernel import IntegerKernelLinear


def layer(out: int, bits: int, has_bias: bool) -> IntegerKernelLinear:
    bias = torch.randn(out) if has_bias else None
    plain = IntegerLinear(dots.quantise(torch.randn(out, 64), bits), bias, torch.float32)
    return IntegerKernelLinear(plain)


class Gated(nn.Module):
    """Three products of one input in 4 bits, one in 8, and one of another input."""

    def __init__(self) -> None:
        super().__init__()
        kinds = ((40, 4, False), (64, 4, True), (64, 4, False), (64, 8, False), (8, 4, False))
        self.layers = nn.ModuleList(layer(*kind) for kind in kinds)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        query, gate, up, wide, down = self.layers
        return query(inputs), wide(inputs), down(gate(inputs).sigmoid() * up(inputs))


def test_products_of_one_input_are_called_together(cache: Path) -> None:
    """Red when what is merged changes places, loses its bias, or is of another kind or input."""
    torch.manual_seed(0)
    network, inputs = Gated(), torch.randn(5, 64)
    with torch.no_grad():
        program = torch.export.export(network, (inputs,), strict=False)
        merge_products(program)
        merged = program.module()(inputs)
        assert all(map(torch.equal, merged, network(inputs)))
    names = [str(node.target) for node in program.graph.nodes if "stagetree" in str(node.target)]
    assert sorted(name.split(".")[1] for name in names) == [
        "linear_int4",
        "linear_int8",
        "products_int4",
    ]
