"""Triton's product over weights in integers: by its interpreter, or on a GPU if there is one.

The judge is the product of the kernels for CPUs, which `test_dots.py` holds against float64: the
figures are to be the same to the bit, since sums of integers are, and so is the order of the rest.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from engine.kernels import dots, proof, triton_dots
from engine.weights import BITS, IntegerLinear, lay_out
from engine.weights.kernel import GpuIntegerLinear
from tests.engine.test_triton_attention import DEVICE, pytestmark

__all__ = ["pytestmark"]

OUT = 70
"""A block and a rest, be they of 64 or of 16."""
KINDS = [pytest.param(bits, id=name) for name, bits in BITS.items()]


def codes_of(bits: int, size: int, out: int = OUT) -> dots.Codes:
    """Weights whose outputs are of very different sizes, some with a negative scale."""
    codes = dots.quantise(torch.randn(out, size) * torch.logspace(-3, 2, out)[:, None], bits)
    signs = torch.where(torch.rand(codes.scales.shape) < 0.1, -1, 1)
    return codes._replace(scales=signs.half() * codes.scales)


def inputs_of(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size) * torch.logspace(-2, 3, size)


def moved(codes: dots.Codes) -> dots.Codes:
    return dots.Codes(*(None if part is None else part.to(DEVICE) for part in codes))


def by_triton(inputs: Tensor, codes: dots.Codes) -> Tensor:
    laid = triton_dots.lay_out(moved(codes))
    return triton_dots.multiply(inputs.to(DEVICE), laid, None).cpu()


def chain(inputs: Tensor, codes: dots.Codes) -> Tensor:
    """The same figures by torch, written out, for whoever has no kernels for CPUs."""
    groups = inputs.split(dots.GROUP, 1)
    total = torch.zeros(len(inputs), len(codes.values))
    for place, (group, values) in enumerate(
        zip(groups, codes.values.split(dots.GROUP, 1), strict=True)
    ):
        largest = group.abs().amax(1, keepdim=True)
        near, scale = (group * (127 / largest)).round(), largest / 127
        total = fused(near @ values.float().T, scale * codes.scales[:, place].float(), total)
        if codes.minima is not None:
            mass = scale * near.sum(1, keepdim=True)
            total = fused(mass, codes.minima[:, place].float(), total)
    return total


def fused(left: Tensor, right: Tensor, added: Tensor) -> Tensor:
    """left * right + added in float32, rounded once.

    The sum is that of float64, whose last bit is set if it is not exact ("rounded to odd").
    """
    product, wide = left.double() * right.double(), added.double()
    total = product + wide
    back = total - product
    error = (product - (total - back)) + (wide - back)
    bits = total.view(torch.int64)
    towards = torch.where(
        (error > 0) == (total > 0), 0, -1
    )  # what was cut off is beyond, or before
    odd = torch.where(error != 0, (bits + towards) | 1, bits)
    return odd.view(torch.float64).float()


def on_cpu(inputs: Tensor, codes: dots.Codes) -> Tensor:
    return dots.multiply(inputs, dots.pack(codes), None, len(codes.values))


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize(("rows", "size"), [(1, 330), (3, 32), (16, 128), (17, 20), (70, 330)])
def test_figures_are_those_of_a_cpu_to_the_bit(
    cache: Path, rows: int, size: int, bits: int
) -> None:
    """Red when inputs are rounded otherwise, a rest of a loop is lost, or sums go another way."""
    inputs, codes = inputs_of(rows, size), codes_of(bits, size)
    expected = on_cpu(inputs, codes)
    assert torch.equal(by_triton(inputs, codes), expected)
    assert torch.equal(chain(inputs, codes), expected)


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("rows", [2, 16, 40])
def test_rows_of_a_product_do_not_change_one_another(rows: int, bits: int) -> None:
    """To the bit. Red when a sum is cut by how many rows there are, or a scale is another row's."""
    inputs, codes = inputs_of(rows, 170), codes_of(bits, 170)
    inputs *= torch.logspace(-2, 2, rows)[:, None]
    together = by_triton(inputs, codes)
    for row in (0, rows // 2, rows - 1):
        assert torch.equal(by_triton(inputs[row : row + 1], codes)[0], together[row])
    assert torch.equal(by_triton(inputs.flip(0), codes).flip(0), together)


@pytest.mark.parametrize("bits", KINDS)
def test_halves_between_two_codes_are_rounded_as_on_a_cpu(cache: Path, bits: int) -> None:
    """Red when a compiler or a program rounds once where a CPU rounds twice, or away from zero."""
    inputs = torch.randint(-253, 254, (64, 64)) / 2
    inputs[:, ::32] = 127  # the largest: a scale of 1
    inputs *= 1 + torch.rand(64, 1)
    codes = codes_of(bits, 64)
    assert torch.equal(by_triton(inputs, codes), on_cpu(inputs, codes))


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by the interpreter
def test_what_is_not_finite_is_not_hidden(bits: int, odd: float) -> None:
    """Red when a row that overflowed is rounded to something that looks like a figure."""
    inputs = torch.randn(3, 70)
    inputs[1, 40] = odd
    inputs[2] = 1e-38
    output = by_triton(inputs, codes_of(bits, 70))
    assert output[1].isnan().all() and output[0].isfinite().all()
    assert (output[2].abs() < 1e-30).all()


def test_no_rows_and_leading_dimensions_are_products_too() -> None:
    """Red when a launch of no programs is asked for, or a shape is that of a matrix."""
    codes = codes_of(8, 70)
    laid = triton_dots.lay_out(moved(codes))
    assert triton_dots.multiply(torch.empty(0, 70, device=DEVICE), laid, None).shape == (0, OUT)
    inputs = torch.randn(2, 3, 70)
    bias = torch.randn(OUT)
    output = triton_dots.multiply(inputs.to(DEVICE), laid, bias.to(DEVICE)).cpu()
    assert torch.equal(output, by_triton(inputs.view(6, 70), codes).view(2, 3, OUT) + bias)
    with pytest.raises(ValueError, match="weights of 3 groups of 32 inputs are not for 100"):
        triton_dots.multiply(torch.randn(2, 100, device=DEVICE), laid, None)


@pytest.mark.parametrize("bits", KINDS)
def test_a_layer_on_a_gpu_has_this_product_and_keeps_its_weights(bits: int) -> None:
    """Red when weights change as they are laid out, or `lay_out` lets a GPU widen them."""
    codes = moved(codes_of(bits, 128))
    plain = IntegerLinear(codes, torch.randn(OUT, device=DEVICE), torch.float32)
    layer = GpuIntegerLinear(plain)
    assert torch.equal(layer.weight, plain.weight)
    assert layer.num_bytes == codes.values.nbytes * bits // 8 + layer.halves.nbytes
    inputs = torch.randn(3, 128, device=DEVICE)
    assert torch.allclose(layer(inputs), plain(inputs), rtol=1e-4, atol=1e-2)
    network = nn.Sequential(plain, nn.Linear(OUT, 2))
    network.to("meta")
    lay_out(network, has_kernels=True)
    assert [type(each) for each in network] == [GpuIntegerLinear, nn.Linear]


def test_compilers_trace_it_as_one_operator() -> None:
    """Red when the operator's shapes are not told, or its arguments are not plain ones."""
    laid, inputs = triton_dots.lay_out(moved(codes_of(4, 64))), torch.randn(3, 64, device=DEVICE)
    counted = CompileCounter()
    compiled = torch.compile(triton_dots.multiply, fullgraph=True, backend=counted)
    assert torch.equal(compiled(inputs, laid, None), triton_dots.multiply(inputs, laid, None))
    assert counted.frame_count == 1
    operator = torch.ops.stagetree.linear_triton.default
    torch.library.opcheck(operator, (inputs, *laid), test_utils=("test_schema", "test_faketensor"))


def test_a_product_that_is_wrong_or_cannot_be_run_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when an engine dies of a GPU that Triton does not know, or believes it."""
    triton_dots.check(DEVICE)
    right = triton_dots.multiply
    monkeypatch.setattr(triton_dots, "multiply", lambda *given: 1.01 * right(*given))
    with pytest.raises(ValueError, match="a product of 1 rows in 8 bits is wrong"):
        triton_dots.check(DEVICE)
    proof.holds.cache_clear()
    assert not triton_dots.is_usable()
    assert "weights in integers are widened" in caplog.text
    proof.holds.cache_clear()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("rows", [1, 13, 33, 200])
@pytest.mark.parametrize(("out", "size"), [(576, 1536), (2048, 2048), (5000, 896)])
def test_a_recorded_product_is_that_of_a_cpu(rows: int, out: int, size: int, bits: int) -> None:
    """Red when a launch waits, or what a GPU compiles rounds otherwise than the interpreter."""
    codes, inputs = codes_of(bits, size, out), inputs_of(rows, size)
    laid, given = triton_dots.lay_out(moved(codes)), torch.zeros(rows, size, device="cuda")
    triton_dots.multiply(given, laid, None)
    try:
        torch.cuda.set_sync_debug_mode("error")
        triton_dots.multiply(given, laid, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = triton_dots.multiply(given, laid, None)
    given.copy_(inputs)
    graph.replay()
    assert torch.equal(output.cpu(), chain(inputs, codes))
