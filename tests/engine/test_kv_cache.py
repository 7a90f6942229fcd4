"""The cache's three verbs, on rows that carry their own number."""

import pytest
import torch

from engine.kv_cache import KVCache, PassRows


def make_cache(capacity: int) -> KVCache:
    """Two layers whose values are wider than their keys."""
    keys, values = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 2)
    return KVCache(capacity, [keys, values, keys, values])


def write(cache: KVCache, *values: int) -> None:
    """Append rows whose keys and values are these numbers, in two layers."""
    end = cache.length + len(values)
    rows = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    seen = PassRows(cache.rows, torch.tensor(cache.free_slots(len(values))), end)
    for layer in range(2):
        keys, _ = seen.update(rows + 1000 * layer, -rows.expand(1, 1, -1, 2), layer)
        assert keys.shape[-2] == end
    cache.extend(len(values))


def held(cache: KVCache, layer: int = 0) -> list[float]:
    keys, values = cache.rows[2 * layer : 2 * layer + 2]
    kept = keys[0, 0, : cache.length, 0] - 1000 * layer
    assert torch.equal(values[0, 0, : cache.length], -kept[:, None].expand(-1, 2))
    return kept.tolist()


def test_rows_are_appended_truncated_and_overwritten() -> None:
    cache = make_cache(8)
    write(cache, 1, 2, 3)
    cache.truncate(1)
    write(cache, 7, 8)
    assert held(cache) == held(cache, 1) == [1, 7, 8]


@pytest.mark.parametrize("kept", [[2], [3], [2, 4], [3, 5, 6], [2, 3, 4], []])
def test_compacting_keeps_the_named_rows_in_order(kept: list[int]) -> None:
    cache = make_cache(8)
    write(cache, 0, 1, 2, 3, 4, 5, 6)
    cache.compact(2, kept)
    assert held(cache) == held(cache, 1) == [0, 1, *kept]


def test_unused_rows_are_finite() -> None:
    cache = make_cache(8)
    write(cache, 1)
    assert all(torch.isfinite(rows).all() for rows in cache.rows)


def test_overflow_and_impossible_truncation_are_errors() -> None:
    cache = make_cache(2)
    write(cache, 1, 2)
    with pytest.raises(ValueError, match="do not fit"):
        write(cache, 3)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(3)
