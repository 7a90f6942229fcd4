"""The key-value cache of one model: preallocated rows, written in place, rolled back by a number.

    rows   0 .. committed tokens .. | tree nodes, in the order in which they were scored | free
                                    ^ the caller knows where the committed rows end

It is a transformers `Cache`, so that stock model code writes to it. Every layer, sliding ones too,
keeps all rows: a ring could not be rolled back. Beside keys and values a row may have features: the
hidden states that a head reads.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class KVCache(Cache):
    """`length` rows are in use, of at most `capacity`; three verbs change that, none allocates."""

    def __init__(self, capacity: int) -> None:
        super().__init__(layer_class_to_replicate=cast(type[CacheLayerMixin], self._new_layer))
        self.capacity = capacity
        self.length = 0
        self._rows: list[_Layer] = []
        self._features: Tensor | None = None

    def extend(self, num_rows: int) -> None:
        """Count in the rows that a forward pass has just written at the end of every layer."""
        self.length += num_rows

    def truncate(self, length: int) -> None:
        """Drop every row from `length` on. The rows' contents stay, but nothing will read them."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} rows to {length}")
        self.length = length

    @torch.inference_mode()
    def compact(self, start: int, kept: Sequence[int]) -> None:
        """Of the rows from `start` on keep only `kept` (absolute, ascending), moved together."""
        end = start + len(kept)
        if list(kept) != list(range(start, end)):
            for layer in self._rows:
                layer.move(list(kept), start)
            if self._features is not None:
                self._features[start:end] = self._features[list(kept)]
        self.length = end

    def write_features(self, states: Tensor) -> None:
        """Keep features (rows, width) of the rows that a forward pass is about to count in."""
        if self._features is None or self._features.shape[1] != states.shape[1]:
            self._features = states.new_zeros(self.capacity, states.shape[1])
        self._features[self.length : self.length + len(states)] = states

    def features(self, start: int, end: int) -> Tensor:
        """Features of the rows `start` to `end`: (end - start, width), a view."""
        if self._features is None or not 0 <= start <= end <= self.length:
            raise ValueError(f"no features of rows {start} to {end} are kept")
        return self._features[start:end]

    def _new_layer(self) -> "_Layer":
        self._rows.append(_Layer(self))
        return self._rows[-1]


class _Layer(CacheLayerMixin):
    """Keys and values of one layer: (1, kv heads, capacity, head size), zero where unused.

    Unused rows must be finite: a masked row's weight is 0, and 0 times infinity is not a number.
    """

    is_sliding = False

    def __init__(self, cache: KVCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._both: tuple[Tensor, ...] = ()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the rows in the shape and precision of the first ones."""
        self._both = tuple(
            states.new_zeros(*states.shape[:-2], self._cache.capacity, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.keys, self.values = self._both
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's rows after those in use and return all of both, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._cache.length, self._cache.length + key_states.shape[-2]
        if end > self._cache.capacity:
            raise ValueError(f"{end} rows do not fit a cache of {self._cache.capacity}")
        keys, values = self._both
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def move(self, rows: list[int], start: int) -> None:
        """Copy `rows` to the consecutive places from `start` on."""
        for states in self._both:
            states[:, :, start : start + len(rows)] = states[:, :, rows]

    def get_seq_length(self) -> int:
        """Rows in use."""
        return self._cache.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many rows a mask would cover, and from which on."""
        return self._cache.length + query_length, 0

    def get_max_length(self) -> int:
        """Rows there are."""
        return self._cache.capacity
