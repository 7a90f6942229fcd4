"""Dot products of integers and bfloat16: right, row by row, and the same by all instructions."""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
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


def integers(inputs: Tensor, codes: dots.Codes) -> Tensor:
    return dots.multiply(inputs, dots.pack(codes), None, len(codes.values))


def int8(inputs: Tensor, weight: Tensor) -> Tensor:
    return integers(inputs, dots.quantise(weight, 8))


def int4(inputs: Tensor, weight: Tensor) -> Tensor:
    return integers(inputs, dots.quantise(weight, 4))


def bfloat16(inputs: Tensor, weight: Tensor) -> Tensor:
    return dots.multiply_bfloat16(inputs, dots.pack_bfloat16(weight), None, len(weight))


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.2)])
@pytest.mark.parametrize("rows", ROWS)
def test_integers_are_what_float64_makes_of_the_rounded_figures(
    cache: Path, weight: Tensor, rows: int, bits: int, error: float
) -> None:
    """Red when a group has another's scale or minimum, an offset is forgotten, or a sum does not
    fit."""
    inputs = torch.randn(rows, IN) * torch.logspace(-2, 3, IN)
    codes = dots.quantise(weight, bits)
    near, weights = dots.rounded(inputs).double(), codes.plain().double()
    expected, most = near @ weights.T, near.abs() @ weights.abs().T
    found = integers(inputs, codes)
    scale = codes.scales.double().repeat_interleave(dots.GROUP, 1)[:, :IN].abs()
    of_codes = near.abs() @ (2**bits * scale).T  # which cancel with minima
    assert ((found - expected).abs() <= 1e-6 * (most + of_codes)).all()
    exact = inputs.double() @ weight.double().T
    assert (expected - exact).norm() < error * exact.norm()


@pytest.mark.parametrize("size", [IN, 32, 5])
def test_four_bits_hold_the_least_and_the_largest_of_a_group(size: int) -> None:
    """Red when what pads a last group is taken for a weight, or a scale of nothing divides."""
    weight = 3 + torch.rand(4, size)
    weight[1] = 0
    weight[2] = 7
    codes = dots.quantise(weight, 4)
    assert codes.values.max() <= 15 and codes.scales.isfinite().all()
    step = codes.scales.float().repeat_interleave(dots.GROUP, 1)[:, :size]
    assert ((codes.plain() - weight).abs() <= 0.51 * step + 2e-3).all()
    assert torch.equal(codes.plain()[1:3], weight[1:3])


def test_codes_survive_their_packing(cache: Path) -> None:
    """Red when halves of a byte change places; scales may be negative, as those of Q4_0."""
    torch.manual_seed(0)
    scales, minima = torch.randn(2, OUT, 11).half()
    for values, least in (
        (torch.randint(-127, 128, (OUT, IN), dtype=torch.int8), None),
        (torch.randint(0, 16, (OUT, IN), dtype=torch.uint8), minima),
    ):
        codes = dots.Codes(values, scales, least)
        found = dots.unpack(dots.pack(codes), OUT, IN)
        assert torch.equal(found.values, values) and torch.equal(found.scales, scales)
        assert (found.minima is None) == (least is None)
        assert torch.equal(found.plain(), codes.plain())
        inputs = torch.randn(3, IN)
        expected = dots.rounded(inputs) @ codes.plain().T
        assert torch.allclose(integers(inputs, codes), expected, rtol=1e-3, atol=1e-2)


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


@pytest.mark.parametrize("product", [int8, int4, bfloat16])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_a_product_do_not_change_one_another(
    cache: Path, weight: Tensor, rows: int, product: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """To the bit. Red when a row's scale, or the order of a sum, depends on its neighbours."""
    inputs = torch.randn(rows, IN) * torch.logspace(-2, 2, rows)[:, None]
    together = product(inputs, weight)
    for row in range(rows):
        assert torch.equal(product(inputs[row : row + 1], weight)[0], together[row])


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(cache: Path, weight: Tensor, odd: float) -> None:
    """Red when a row that overflowed is rounded to something that looks like a figure."""
    inputs = torch.randn(3, IN)
    inputs[1, 40] = odd
    for product in (int8, int4):
        output = product(inputs, weight)
        assert output[1].isnan().all()
        assert output[[0, 2]].isfinite().all()


def test_inputs_of_nothing_give_nothing(cache: Path, weight: Tensor) -> None:
    """Red when a group of zeros, or of hardly more, is divided by its largest."""
    inputs = torch.zeros(2, IN)
    inputs[1] = 1e-38
    for product in (int8, int4):
        assert not product(inputs, weight)[0].any()
        assert (product(inputs, weight).abs() < 1e-30).all()


def test_no_rows_are_a_product_too(cache: Path, weight: Tensor) -> None:
    """Red when a division by the number of rows meets none."""
    for product in (int8, int4, bfloat16):
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
    """Red when a text depends on the processor. What this one lacks is compiled and not run.

    What tiles of bfloat16 sum up is the exception.
    """
    of_integers, of_bfloat16, needed = FORMS[architecture]
    library = compiled(tmp_path, needed, f"-march={architecture}")
    for name, form in (("integers", of_integers), ("bfloat16", of_bfloat16)):
        told = library[f"form_of_{name}"]
        told.restype = ctypes.c_char_p
        assert form in (None, told().decode())
    for rows in (1, 5, 14, 33):
        inputs = torch.randn(rows, IN)
        assert_integers_are_the_same(library, inputs, weight)
        if library.has_tiles() == ("amx_bf16" in flags()):
            found = run_bfloat16(library, inputs, weight)
            assert torch.equal(found, bfloat16(inputs, weight))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="forms of this architecture")
def test_tiles_give_the_same_integers_and_rows_of_their_own(
    cache: Path, weight: Tensor, tmp_path: Path
) -> None:
    """Red when a tile has another shape than what is loaded, or a rest of one is not zeros.

    By an emulation, whatever the processor: nothing is said of what real tiles do.
    """
    tiles = ROOT / "tests/engine/emulated_tiles.h"
    library = compiled(tmp_path, {"avx512_vnni"}, "-march=native", "-include", str(tiles))
    assert library.has_tiles()
    for rows in (1, 7, 8, 16, 17, 33):
        inputs = torch.randn(rows, IN) * torch.logspace(-2, 2, rows)[:, None]
        assert_integers_are_the_same(library, inputs, weight)
        found = run_bfloat16(library, inputs, weight)
        near, weights = inputs.bfloat16().double(), weight.bfloat16().double()
        most = near.abs() @ weights.abs().T
        assert ((found - near @ weights.T).abs() <= 1e-5 * most).all()
        for row in range(rows):
            alone = run_bfloat16(library, inputs[row : row + 1], weight)
            assert torch.equal(alone[0], found[row])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="forms of this architecture")
def test_who_may_not_use_tiles_has_the_other_forms(
    cache: Path, weight: Tensor, tmp_path: Path
) -> None:
    """Red when code for tiles is run without being permitted to, which ends the process."""
    options = ("-mamx-tile", "-mamx-int8", "-mamx-bf16")
    library = compiled(tmp_path, set(), "-march=native", *options)
    assert library.has_tiles() <= ("amx_tile" in flags())
    inputs = torch.randn(9, IN)
    assert_integers_are_the_same(library, inputs, weight)
    assert torch.equal(run_bfloat16(library, inputs, weight), bfloat16(inputs, weight))


def flags() -> set[str]:
    """What this processor says it has."""
    return {*Path("/proc/cpuinfo").read_text().split()} if sys.platform == "linux" else set()


def compiled(folder: Path, needed: set[str], *options: str) -> ctypes.CDLL:
    """The forms as a compiler's options choose them, or a skip where they cannot be run."""
    path = folder / "forms.so"
    # What one of several libraries in this process found out is not to be another's.
    command = ["g++", "-std=c++20", "-O2", *options, "-shared", "-fPIC", "-fno-gnu-unique"]
    source = ROOT / "tests/engine/dots_forms.cpp"
    subprocess.run(
        [*command, f"-I{ROOT / 'engine/kernels'}", str(source), "-o", str(path)], check=True
    )
    if missing := needed - flags():
        pytest.skip(f"compiled and not run: this processor has no {', '.join(missing)}")
    library = ctypes.CDLL(str(path))
    library.has_tiles.restype = ctypes.c_bool
    return library


def assert_integers_are_the_same(library: ctypes.CDLL, inputs: Tensor, weight: Tensor) -> None:
    for bits, function in ((8, library.int8), (4, library.int4)):
        codes = dots.quantise(weight, bits)
        found = run(function, inputs, *dots.pack(codes))
        assert torch.equal(found, integers(inputs, codes))


def run_bfloat16(library: ctypes.CDLL, inputs: Tensor, weight: Tensor) -> Tensor:
    panels = dots.pack_bfloat16(weight)
    return run(library.bfloat16, inputs.bfloat16(), panels, panels)


def run(function: object, inputs: Tensor, panels: Tensor, halves: Tensor) -> Tensor:
    """A product by one form."""
    output = torch.empty(len(inputs), OUT)
    parts = (inputs, panels, halves, output)
    place = [ctypes.c_void_p(each.data_ptr()) for each in parts]
    sizes = [ctypes.c_int64(each) for each in (*inputs.shape, OUT)]
    function(place[0], *sizes[:2], *place[1:3], sizes[2], place[3])  # type: ignore[operator]
    return output
