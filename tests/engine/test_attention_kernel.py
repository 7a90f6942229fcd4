"""The attention kernel against the same in float64, and its independence of other rows."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels.attention import attend
from engine.kernels.sight import Sight
from engine.masks import PackedMasks

pytestmark = pytest.mark.usefixtures("cache")


@dataclass(frozen=True)
class Case:
    """A query as models make it (a transposed view), a cache, and whom each row sees behind it.

    `seen` is (rows, rows behind the prefix).
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    prefix: int
    seen: Tensor
    positions: Tensor
    window: int = 0
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def visible(self) -> Tensor:
        """As bits, with a byte to spare."""
        bits = np.packbits(self.seen.numpy(), axis=1, bitorder="little")
        return torch.from_numpy(np.pad(bits, ((0, 0), (0, 1))))

    @property
    def places(self) -> Tensor:
        """Of a text that begins at the top of the cache."""
        begin = torch.zeros_like(self.positions)
        return torch.stack([self.positions, begin, begin + self.prefix])

    @property
    def sight(self) -> Sight:
        """As the kernel is given it."""
        return Sight(self.places, self.visible, self.window)

    @property
    def mask(self) -> Tensor:
        """The same written out over the whole cache: (rows, length), additive."""
        rows = torch.arange(self.prefix)
        text = self.positions[:, None] - rows < (self.window or math.inf)
        seen = torch.cat([text, self.seen], dim=1)
        seen = torch.nn.functional.pad(seen, (0, self.keys.shape[2] - seen.shape[1]))
        return torch.zeros(seen.shape).masked_fill(~seen, -math.inf)

    def row(self, row: int) -> "Case":
        """One row of it."""
        one = slice(row, row + 1)
        part = replace(self, query=self.query[:, :, one], seen=self.seen[one])
        return replace(part, positions=self.positions[one])

    def attend(self, scale: float = 0.2) -> Tensor:
        """By the kernel."""
        return attend(
            *(self.query, self.keys, self.values, self.sight),
            scaling=scale,
            softcap=self.softcap,
            sinks=self.sinks,
        )

    def exactly(self, scale: float = 0.2) -> Tensor:
        """In float64, (1, rows, heads, value size)."""
        group = self.query.shape[1] // self.keys.shape[1]
        keys, values = self.keys.double().nan_to_num(), self.values.double().nan_to_num()
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = self.query.double() @ keys.transpose(2, 3) * scale
        if self.softcap:
            scores = self.softcap * (scores / self.softcap).tanh()
        scores = scores + self.mask.double()
        if self.sinks is not None:
            sinks = self.sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)
        return (scores.softmax(-1)[..., : keys.shape[2]] @ values).transpose(1, 2)


def make(
    heads: int, kv_heads: int, size: int, rows: int, length: int, value_size: int | None = None
) -> Case:
    """Rows at the end that see what came before, themselves, and some of their predecessors."""
    torch.manual_seed(heads + 7 * rows + 31 * length + size)
    query = torch.randn(1, rows, heads, size).transpose(1, 2)
    seen = (torch.rand(rows, rows) < 0.5).tril() | torch.eye(rows, dtype=torch.bool)
    cache = [larger_cache(kv_heads, length, each) for each in (size, value_size or size)]
    return Case(query, *cache, length - rows, seen, torch.arange(length - rows, length))


def larger_cache(kv_heads: int, length: int, size: int) -> Tensor:
    """A cache of which a part is filled; the rest would show if it were read."""
    cache = torch.full((1, kv_heads, length + 37, size), math.nan)
    cache[:, :, :length] = torch.randn(1, kv_heads, length, size)
    return cache


def assert_close(output: Tensor, expected: Tensor) -> None:
    """Within 2e-6 of the largest figure."""
    assert output.shape == expected.shape and output.is_contiguous()
    error = (output.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-6


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (2, 2), (8, 1), (5, 5), (32, 8)])
@pytest.mark.parametrize("size", [64, 16, 19, 80])
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (1, 300), (3, 129), (8, 301), (64, 64)])
def test_agrees_with_float64(heads: int, kv_heads: int, size: int, rows: int, length: int) -> None:
    case = make(heads, kv_heads, size, rows, length)
    assert_close(case.attend(size**-0.5), case.exactly(size**-0.5))


@pytest.mark.parametrize(("size", "value_size"), [(64, 32), (24, 100), (3, 1), (128, 128)])
def test_values_have_their_own_size(size: int, value_size: int) -> None:
    case = make(6, 3, size, 7, 200, value_size)
    assert_close(case.attend(), case.exactly())


@pytest.mark.parametrize("length", [512, 1000, 8192])
def test_long_prompts(length: int) -> None:
    case = make(4, 2, 32, 512, length)
    case = replace(case, seen=torch.ones(512, 512, dtype=torch.bool).tril())
    assert_close(case.attend(), case.exactly())


@pytest.mark.parametrize("window", [1, 5, 100, 250, 5000])
def test_windows_end_by_position(window: int) -> None:
    """Some tiles are hidden from all rows, some from a few; siblings share a position."""
    case = replace(make(4, 2, 32, 9, 700), window=window)
    case = replace(case, positions=691 + torch.tensor([0, 1, 1, 2, 2, 3, 60, 200, 400]))
    assert_close(case.attend(), case.exactly())


@pytest.mark.parametrize("softcap", [0.5, 30.0])
@pytest.mark.parametrize(("rows", "length"), [(1, 40), (7, 300)])
def test_scores_are_capped_before_they_are_masked(softcap: float, rows: int, length: int) -> None:
    case = replace(make(6, 2, 24, rows, length), softcap=softcap)
    assert_close(case.attend(), case.exactly())


@pytest.mark.parametrize("height", [-3.0, 2.0, 60.0])
@pytest.mark.parametrize(("rows", "length"), [(1, 40), (7, 300)])
def test_sinks_take_weight(height: float, rows: int, length: int) -> None:
    case = replace(make(6, 2, 24, rows, length), sinks=height + torch.randn(6))
    assert_close(case.attend(), case.exactly())


def test_large_scores_do_not_overflow() -> None:
    case = make(4, 2, 32, 5, 300)
    case = replace(case, query=case.query * 100, keys=case.keys * 100)
    assert case.attend(1.0).isfinite().all()


def test_nan_is_not_hidden() -> None:
    case = make(2, 1, 32, 3, 50)
    case.query[0, 1, 2, 4] = math.nan
    shows = case.attend(1.0).isnan().all(-1)
    assert shows[0].tolist() == [[False, False], [False, False], [False, True]]


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (7, 1)])
@pytest.mark.parametrize("rows", [2, 5, 8, 33, 100])
@pytest.mark.parametrize("length", [100, 301])
def test_rows_do_not_change_one_another(heads: int, kv_heads: int, rows: int, length: int) -> None:
    case = replace(make(heads, kv_heads, 40, rows, length), window=150)
    far = case.positions + 170 * (torch.arange(rows) % 2)  # tiles that some rows alone can skip
    case = replace(case, positions=far)
    together = case.attend()
    for row in range(rows):
        assert torch.equal(case.row(row).attend(), together[:, row : row + 1])


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("window", [0, 40, 150])
@pytest.mark.parametrize("prefix", [0, 5, 120, 127, 128, 250])
def test_a_node_is_what_it_is_in_a_committed_text(
    prefix: int, window: int, softcap: float | None
) -> None:
    """To the bit. Red when sums are cut by where ancestors lie, and not by how many they are."""
    num_columns, path = 90, [0, 1, 7, 8, 30, 31, 32, 60, 89]
    query, keys, values = (torch.randn(1, heads, num_columns + prefix, 24) for heads in (4, 2, 2))
    near = torch.arange(len(path)) > len(path) - 1 - (window or math.inf)
    seen = torch.zeros(1, num_columns).bool()
    seen[0, torch.tensor(path)[near]] = True
    places = torch.tensor([prefix + len(path) - 1])
    among = Case(query[:, :, -1:], keys, values, prefix, seen, places, window, softcap)
    rows = [*range(prefix), *(prefix + column for column in path)]
    text = len(rows) - 1
    alone = replace(among, keys=keys[:, :, rows], values=values[:, :, rows], prefix=text)
    alone = replace(alone, seen=torch.ones(1, 1).bool())
    assert torch.equal(among.attend(), alone.attend())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_converted(dtype: torch.dtype) -> None:
    case = make(6, 2, 32, 5, 77)
    names = ("query", "keys", "values")
    low = replace(case, **{name: getattr(case, name).to(dtype) for name in names})
    exact = replace(case, **{name: getattr(low, name).float() for name in names})
    assert low.attend().dtype == dtype
    # Nothing is done to what lies behind the rows in use, which may be most of a cache.
    whole = replace(low, keys=low.keys.repeat(1, 1, 9, 1), values=low.values.repeat(1, 1, 9, 1))
    assert torch.equal(whole.attend(), low.attend())
    assert torch.equal(low.attend(), exact.attend().to(dtype))


def test_masks_written_out_say_the_same() -> None:
    """Red when who has no kernel reads the bits in another way."""
    for window in (None, 4):
        case = replace(make(2, 1, 8, 20, 50), window=window or 0)
        masks = PackedMasks(case.places, case.visible, case.visible, window=window or 0)
        (share,) = masks.shares(window, case.keys.shape[2], torch.float32)
        assert torch.equal(share.mask[0, 0], case.mask)


def test_what_does_not_fit_is_refused() -> None:
    case = make(6, 2, 32, 5, 77)
    with pytest.raises(RuntimeError, match="shapes of attention differ"):
        replace(case, values=case.values[:, :, 1:]).attend()
    with pytest.raises(RuntimeError, match="5 heads over 2"):
        replace(case, query=case.query[:, :5]).attend()
    with pytest.raises(RuntimeError, match="77 rows of a cache of 76"):
        replace(case, keys=case.keys[:, :, :76], values=case.values[:, :, :76]).attend()
