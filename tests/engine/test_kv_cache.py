"""The cache's three verbs, on rows that carry their own number."""

import pytest
import torch

from engine.kv_cache import KVCache


def write(cache: KVCache, *values: int) -> None:
    """Append rows whose keys and values are these numbers, in two layers."""
    rows = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    for layer in range(2):
        keys, _ = cache.update(rows + 1000 * layer, -rows, layer)
        assert keys.shape[-2] == cache.length + len(values)
    cache.extend(len(values))


def held(cache: KVCache, layer: int = 0) -> list[float]:
    keys, values = cache.layers[layer].keys, cache.layers[layer].values
    assert torch.equal(
        keys[0, 0, : cache.length, 0] - 1000 * layer, -values[0, 0, : cache.length, 0]
    )
    return (keys[0, 0, : cache.length, 0] - 1000 * layer).tolist()


def test_rows_are_appended_truncated_and_overwritten() -> None:
    cache = KVCache(8)
    write(cache, 1, 2, 3)
    cache.truncate(1)
    write(cache, 7, 8)
    assert held(cache) == held(cache, 1) == [1, 7, 8]


@pytest.mark.parametrize("kept", [[2], [3], [2, 4], [3, 5, 6], [2, 3, 4], []])
def test_compacting_keeps_the_named_rows_in_order(kept: list[int]) -> None:
    cache = KVCache(8)
    write(cache, 0, 1, 2, 3, 4, 5, 6)
    cache.compact(2, kept)
    assert held(cache) == held(cache, 1) == [0, 1, *kept]


def test_unused_rows_are_finite() -> None:
    cache = KVCache(8)
    write(cache, 1)
    assert torch.isfinite(cache.layers[0].keys).all()


def test_overflow_and_impossible_truncation_are_errors() -> None:
    cache = KVCache(2)
    write(cache, 1, 2)
    with pytest.raises(ValueError, match="do not fit"):
        write(cache, 3)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(3)
