"""The attention kernel against the same in float64, and its independence of other rows."""

import math

import pytest
import torch
from torch import Tensor

from engine.kernels.attention import attend

HIDDEN = float("-inf")


pytestmark = pytest.mark.usefixtures("cache")


def cache_view(kv_heads: int, length: int, size: int) -> Tensor:
    """The filled part of a larger cache, whose rest would show if it were read."""
    cache = torch.full((1, kv_heads, length + 37, size), float("nan"))
    cache[:, :, :length] = torch.randn(1, kv_heads, length, size)
    return cache[:, :, :length]


def tree_mask(rows: int, length: int) -> Tensor:
    """Rows at the end that see what came before, themselves, and some of their predecessors."""
    mask = torch.zeros(1, 1, rows, length)
    sees = (torch.rand(rows, rows) < 0.5).tril() | torch.eye(rows, dtype=torch.bool)
    mask[..., length - rows :] = torch.where(sees, 0.0, HIDDEN)
    return mask


def inputs(
    heads: int, kv_heads: int, size: int, rows: int, length: int, value_size: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A query as models make it (a transposed view), keys and values of a cache, and a mask."""
    torch.manual_seed(heads + 7 * rows + 31 * length + size)
    query = torch.randn(1, rows, heads, size).transpose(1, 2)
    keys, values = (cache_view(kv_heads, length, n) for n in (size, value_size or size))
    return query, keys, values, tree_mask(rows, length)


def reference(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The same in float64, (1, rows, heads, value size)."""
    group = query.shape[1] // keys.shape[1]
    query, keys, values = query.double(), keys.double(), values.double()
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    weights = (query @ keys.transpose(2, 3) * scale + mask.double()).softmax(-1)
    return (weights @ values).transpose(1, 2)


def assert_close(output: Tensor, expected: Tensor) -> None:
    """Within 2e-6 of the largest figure."""
    assert output.shape == expected.shape and output.is_contiguous()
    error = (output.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-6


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (2, 2), (8, 1), (5, 5), (32, 8)])
@pytest.mark.parametrize("size", [64, 16, 19, 80])
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (1, 300), (3, 129), (8, 301), (64, 64)])
def test_agrees_with_float64(heads: int, kv_heads: int, size: int, rows: int, length: int) -> None:
    given = (*inputs(heads, kv_heads, size, rows, length), size**-0.5)
    assert_close(attend(*given), reference(*given))


@pytest.mark.parametrize(("size", "value_size"), [(64, 32), (24, 100), (3, 1), (128, 128)])
def test_values_have_their_own_size(size: int, value_size: int) -> None:
    given = (*inputs(6, 3, size, 7, 200, value_size), 0.1)
    assert_close(attend(*given), reference(*given))


@pytest.mark.parametrize("length", [512, 1000, 8192])
def test_long_prompts(length: int) -> None:
    query, keys, values, mask = inputs(4, 2, 32, 512, length)
    causal = torch.full((512, 512), HIDDEN).triu(1)
    mask[..., length - 512 :] = causal
    given = (query, keys, values, mask, 32**-0.5)
    assert_close(attend(*given), reference(*given))


def test_windows_hide_whole_tiles() -> None:
    query, keys, values, mask = inputs(4, 2, 32, 9, 700)
    for row in range(9):
        mask[..., row, : 100 + 50 * row] = HIDDEN  # some tiles for all rows, some for a few
    given = (query, keys, values, mask, 32**-0.5)
    assert_close(attend(*given), reference(*given))


def test_masks_may_be_finite() -> None:
    query, keys, values, mask = inputs(4, 2, 32, 9, 300)
    mask += torch.randn_like(mask)
    mask[..., :50] = torch.finfo(torch.float32).min
    given = (query, keys, values, mask, 32**-0.5)
    assert_close(attend(*given), reference(*given))


def test_large_scores_do_not_overflow() -> None:
    query, keys, values, mask = inputs(4, 2, 32, 5, 300)
    output = attend(query * 100, keys * 100, values, mask, 1.0)
    assert output.isfinite().all()


def test_nan_is_not_hidden() -> None:
    query, keys, values, mask = inputs(2, 1, 32, 3, 50)
    query[0, 1, 2, 4] = math.nan
    shows = attend(query, keys, values, mask, 1.0).isnan().all(-1)
    assert shows[0].tolist() == [[False, False], [False, False], [False, True]]


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize("rows", [2, 5, 8, 33, 100])
@pytest.mark.parametrize("length", [100, 301])
def test_rows_do_not_change_one_another(heads: int, kv_heads: int, rows: int, length: int) -> None:
    query, keys, values, mask = inputs(heads, kv_heads, 40, rows, length)
    mask[..., rows // 2 :, : length - rows] = HIDDEN  # tiles that some rows alone can skip
    together = attend(query, keys, values, mask, 0.2)
    for row in range(rows):
        one = slice(row, row + 1)
        alone = attend(query[:, :, one], keys, values, mask[:, :, one], 0.2)
        assert torch.equal(alone, together[:, one])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_converted(dtype: torch.dtype) -> None:
    given = [tensor.to(dtype) for tensor in inputs(6, 2, 32, 5, 77)]
    output = attend(*given, 0.2)
    assert output.dtype == dtype
    exact = attend(*(tensor.float() for tensor in given), 0.2)
    assert torch.equal(output, exact.to(dtype))


def test_shapes_that_differ_are_refused() -> None:
    query, keys, values, mask = inputs(6, 2, 32, 5, 77)
    with pytest.raises(RuntimeError, match="shapes of attention differ"):
        attend(query, keys, values[:, :, 1:], mask, 0.2)
    with pytest.raises(RuntimeError, match="5 heads over 2"):
        attend(query[:, :5], keys, values, mask, 0.2)
