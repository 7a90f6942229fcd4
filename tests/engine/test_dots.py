"""Dot products of int8 and bfloat16: right, row by row, and the same by all instructions."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.kernels import dots

ROOT = Path(__file__).parents[2]
OUT, IN = 150, 330
ROWS = (1, 2, 3, 7, 8, 13, 14, 15, 29, 64)


@pytest.fixture(scope="module")
def weight() -> Tensor:
    """Weights whose outputs are of very different sizes."""
    torch.manual_seed(1)
    return torch.randn(OUT, IN) * torch.logspace(-3, 2, OUT)[:, None]


def int8(inputs: Tensor, weight: Tensor) -> Tensor:
    quantised, scales = dots.quantise(weight)
    return dots.multiply_int8(inputs, dots.pack_int8(quantised), scales, None, len(weight))


def bfloat16(inputs: Tensor, weight: Tensor) -> Tensor:
    return dots.multiply_bfloat16(inputs, dots.pack_bfloat16(weight), None, len(weight))


@pytest.mark.parametrize("rows", ROWS)
def test_int8_is_what_float64_makes_of_the_rounded_figures(
    cache: Path, weight: Tensor, rows: int
) -> None:
    """Red when a group has another's scale, an offset is forgotten, or a sum does not fit."""
    inputs = torch.randn(rows, IN) * torch.logspace(-2, 3, IN)
    quantised, scales = dots.quantise(weight)
    expected = dots.rounded(inputs).double() @ (quantised * scales[:, None].double()).T
    most = dots.rounded(inputs).double().abs() @ (quantised.abs() * scales[:, None].double()).T
    assert ((int8(inputs, weight) - expected).abs() <= 1e-6 * most).all()
    exact = inputs.double() @ weight.double().T
    assert (expected - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("rows", ROWS)
def test_bfloat16_is_what_float64_makes_of_the_rounded_figures(
    cache: Path, weight: Tensor, rows: int
) -> None:
    """Red when a pair of inputs meets another pair of weights, or inputs are cut, not rounded."""
    inputs = torch.randn(rows, IN)
    near, weights = inputs.bfloat16().double(), weight.bfloat16().double()
    most = near.abs() @ weights.abs().T
    assert ((bfloat16(inputs, weight) - near @ weights.T).abs() <= 1e-5 * most).all()
    narrow = bfloat16(inputs.bfloat16(), weight)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, bfloat16(inputs, weight).bfloat16())


@pytest.mark.parametrize("multiply", [int8, bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_a_product_do_not_change_one_another(
    cache: Path, weight: Tensor, rows: int, multiply: object
) -> None:
    """To the bit. Red when a row's scale, or the order of a sum, depends on its neighbours."""
    assert multiply in (int8, bfloat16)
    product = int8 if multiply is int8 else bfloat16
    inputs = torch.randn(rows, IN) * torch.logspace(-2, 2, rows)[:, None]
    together = product(inputs, weight)
    for row in range(rows):
        assert torch.equal(product(inputs[row : row + 1], weight)[0], together[row])


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(cache: Path, weight: Tensor, odd: float) -> None:
    """Red when a row that overflowed is rounded to something that looks like a figure."""
    inputs = torch.randn(3, IN)
    inputs[1, 40] = odd
    output = int8(inputs, weight)
    assert output[1].isnan().all()
    assert output[[0, 2]].isfinite().all()


def test_inputs_of_nothing_give_nothing(cache: Path, weight: Tensor) -> None:
    """Red when a group of zeros, or of hardly more, is divided by its largest."""
    inputs = torch.zeros(2, IN)
    inputs[1] = 1e-38
    assert not int8(inputs, weight)[0].any()
    assert (int8(inputs, weight).abs() < 1e-30).all()


def test_no_rows_are_a_product_too(cache: Path, weight: Tensor) -> None:
    """Red when a division by the number of rows meets none."""
    for product in (int8, bfloat16):
        assert product(torch.empty(0, IN), weight).shape == (0, OUT)


FORMS = {
    "x86-64": ("plain", "fused multiply-adds", set()),
    "x86-64-v3": ("AVX2", "fused multiply-adds", {"avx2", "fma"}),
    "x86-64-v4": ("AVX2", "fused multiply-adds", {"avx512bw", "avx512vl"}),
    "alderlake": ("AVX-VNNI", "fused multiply-adds", {"avx_vnni"}),
    "icelake-server": ("AVX-512 VNNI", "fused multiply-adds", {"avx512_vnni", "avx512_vbmi2"}),
    "sapphirerapids": ("AVX-512 VNNI", "AVX-512 BF16", {"avx512_bf16", "amx_tile", "avx512_fp16"}),
    "native": (None, None, set()),
}
"""By what compilers call processors: the forms they have, and flags of those that can run them."""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="forms of this architecture")
@pytest.mark.parametrize("architecture", FORMS)
def test_every_form_gives_the_same_figures_to_the_bit(
    cache: Path, weight: Tensor, architecture: str, tmp_path: Path
) -> None:
    """Red when a text depends on the processor. What this one lacks is compiled and not run."""
    path = tmp_path / "forms.so"
    command = ["g++", "-std=c++20", "-O2", f"-march={architecture}", "-shared", "-fPIC"]
    source = ROOT / "tests/engine/dots_forms.cpp"
    subprocess.run(
        [*command, f"-I{ROOT / 'engine/kernels'}", str(source), "-o", str(path)], check=True
    )
    of_int8, of_bfloat16, needed = FORMS[architecture]
    flags = {*Path("/proc/cpuinfo").read_text().split()} if sys.platform == "linux" else set()
    if not needed <= flags:
        pytest.skip(f"compiled and not run: this processor has no {', '.join(needed - flags)}")
    library = ctypes.CDLL(str(path))
    for name, form in (("int8", of_int8), ("bfloat16", of_bfloat16)):
        told = library[f"form_of_{name}"]
        told.restype = ctypes.c_char_p
        assert form in (None, told().decode())
    quantised, scales = dots.quantise(weight)
    for rows in (1, 5, 14, 33):
        inputs = torch.randn(rows, IN)
        given = (inputs, dots.pack_int8(quantised))
        assert torch.equal(run(library.int8, *given) * scales, int8(inputs, weight))
        given = (inputs.bfloat16(), dots.pack_bfloat16(weight))
        assert torch.equal(run(library.bfloat16, *given), bfloat16(inputs, weight))


def run(function: object, inputs: Tensor, panels: Tensor) -> Tensor:
    """A product by one form."""
    output = torch.empty(len(inputs), OUT)
    place = [ctypes.c_void_p(each.data_ptr()) for each in (inputs, panels, output)]
    sizes = [ctypes.c_int64(each) for each in (*inputs.shape, OUT)]
    function(place[0], *sizes[:2], place[1], sizes[2], place[2])  # type: ignore[operator]
    return output
