"""The cache's one verb, on rows that carry their own number."""

import pytest
import torch

from engine.kv_cache import KVCache, PassRows


def make_cache(capacity: int) -> KVCache:
    """Two layers whose values are wider than their keys."""
    keys, values = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 2)
    return KVCache(capacity, [keys, values, keys, values])


def write(cache: KVCache, start: int, *values: int) -> None:
    """Write rows whose keys and values are these numbers, in two layers."""
    rows = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    seen = PassRows(cache.rows, torch.arange(start, start + len(values)))
    for layer in range(2):
        keys, _ = seen.update(rows + 1000 * layer, -rows.expand(1, 1, -1, 2), layer)
        assert keys.shape[-2] == cache.capacity
    cache.write_features(start, rows[0, 0])


def held(cache: KVCache, end: int, layer: int = 0) -> list[float]:
    keys, values = cache.rows[2 * layer : 2 * layer + 2]
    kept = keys[0, 0, :end, 0] - 1000 * layer
    assert torch.equal(values[0, 0, :end], -kept[:, None].expand(-1, 2))
    assert torch.equal(cache.features(0, end)[:, 0], kept)
    return kept.tolist()


def test_rows_are_written_and_overwritten() -> None:
    cache = make_cache(8)
    write(cache, 0, 1, 2, 3)
    write(cache, 1, 7, 8)
    assert held(cache, 3) == held(cache, 3, 1) == [1, 7, 8]


@pytest.mark.parametrize("kept", [[2], [3], [2, 4], [3, 5, 6], [2, 3, 4], []])
def test_rows_that_are_moved_together_keep_their_order(kept: list[int]) -> None:
    """Red when a row that has been moved is moved once more."""
    cache = make_cache(8)
    write(cache, 0, 0, 1, 2, 3, 4, 5, 6)
    end = 2 + len(kept)
    cache.move(kept, range(2, end))
    assert held(cache, end) == held(cache, end, 1) == [0, 1, *kept]


def test_rows_can_be_copied_to_any_others() -> None:
    """Red when only neighbours can be moved, or what is copied is lost where it was."""
    cache = make_cache(8)
    write(cache, 0, 0, 1, 2, 3, 4, 5, 6, 7)
    cache.move([0, 1, 3], [5, 7, 2])
    assert held(cache, 8) == held(cache, 8, 1) == [0, 1, 3, 3, 4, 0, 6, 1]


def test_unused_rows_are_finite() -> None:
    cache = make_cache(8)
    write(cache, 0, 1)
    assert all(torch.isfinite(rows).all() for rows in cache.rows)
