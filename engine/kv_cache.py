"""The key-value cache of one network: preallocated rows, written in place, and moved by number.

Who has which rows, and how many of them, others know (`engine.rows`). Every layer, sliding ones
too, keeps all rows: a ring could not be rolled back. Beside keys and values a row may have
features: the hidden states that a head reads. `PassRows` shows the rows to stock model code as a
transformers `Cache`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache as Cache
from transformers.cache_utils import CacheLayerMixin


class KVCache:
    """So many rows as its `capacity` says, whosever they are.

    `rows` are the keys and the values of the first layer, of the second, and so on, each of shape
    (1, heads, capacity, size). Unused rows are zero, and always finite: a masked row's weight is 0,
    and 0 times infinity is not a number.
    """

    def __init__(self, capacity: int, like: Sequence[Tensor]) -> None:
        self.capacity = capacity
        # Rows of one shape lie in one tensor, so that a single operation moves them all.
        self._blocks: dict[torch.Size, Tensor] = {}
        places: list[tuple[torch.Size, int]] = []
        for rows in like:
            shape = torch.Size((*rows.shape[:-2], capacity, rows.shape[-1]))
            places.append((shape, sum(shape == known for known, _ in places)))
        for shape, _ in places:
            count = sum(shape == known for known, _ in places)
            if shape not in self._blocks:
                # Tensors made in inference mode could not be written to by what compiles a pass.
                with torch.inference_mode(False):
                    block = torch.zeros(count, *shape, dtype=like[0].dtype, device=like[0].device)
                self._blocks[shape] = block
        self.rows = [self._blocks[shape][index] for shape, index in places]
        self._features: Tensor | None = None

    @torch.inference_mode()
    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows to where others are, all of them at once."""
        moved = torch.tensor([sources, targets], dtype=torch.int64, device=self.rows[0].device)
        for block in self._blocks.values():
            block.index_copy_(-2, moved[1], block.index_select(-2, moved[0]))
        if self._features is not None:
            self._features[moved[1]] = self._features[moved[0]]

    def write_features(self, start: int, states: Tensor) -> None:
        """Keep features (rows, width) of the rows from `start` on."""
        if self._features is None or self._features.shape[1] != states.shape[1]:
            self._features = states.new_zeros(self.capacity, states.shape[1])
        self._features[start : start + len(states)] = states

    def features(self, start: int, end: int) -> Tensor:
        """Features of the rows `start` to `end`: (end - start, width), a view."""
        if self._features is None:
            raise ValueError("no features are kept")
        return self._features[start:end]


def rows_like(run: Callable[[Cache], object]) -> list[Tensor]:
    """What a pass over one token, `run`, writes to the cache that it is given: keys, values, ...

    Only the network itself knows what each of its layers keeps.
    """
    probe = DynamicCache()
    with torch.inference_mode():
        run(probe)
    layers = cast(Any, probe.layers)
    return [rows for layer in layers for rows in (layer.keys, layer.values)]


class PassRows(Cache):
    """A cache's rows as one forward pass sees them: it writes `slots` and may read all.

    Made of tensors alone, so that a pass is a function that can be compiled. `slots` are indices of
    rows, one for each token of the pass.
    """

    def __init__(self, rows: Sequence[Tensor], slots: Tensor) -> None:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        super().__init__(layers=[_PassLayer(keys, values, slots) for keys, values in pairs])

    def of_layer(self, number: int) -> "LayerRows":
        """The rows of one layer alone, for a layer of whatever number."""
        return LayerRows(layers=[self.layers[number]])


class LayerRows(Cache):
    """The rows of one layer as that layer sees them, which need not say which one it is."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's rows into their slots and return all rows."""
        return cast(_PassLayer, self.layers[0]).update(key_states, value_states)


class _PassLayer(CacheLayerMixin):
    """One layer's keys and values during one pass."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self._slots = slots
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's rows into their slots and return all rows."""
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        keys.index_copy_(2, self._slots, key_states)
        values.index_copy_(2, self._slots, value_states)
        return keys, values

    def get_seq_length(self) -> int:
        """Rows before the pass; 0, since positions are given to the model."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many rows a mask would cover, and from which on."""
        return self.get_max_length(), 0

    def get_max_length(self) -> int:
        """Rows there are."""
        return int(cast(Tensor, self.keys).shape[2])


class RepeatedRows(Cache):
    """A cache of `length` rows, which are those of the pass itself, over and over.

    Nothing is kept, so that a long text's end costs little. Of the rows before the pass the network
    is told that there are `told`.
    """

    def __init__(self, num_layers: int, length: int, told: int) -> None:
        super().__init__(layers=[_RepeatedLayer(length, told) for _ in range(num_layers)])


class _RepeatedLayer(CacheLayerMixin):
    """One layer of repeated rows."""

    is_sliding = False

    def __init__(self, length: int, told: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._length, self._told = length, told
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The pass's rows behind those that repeat them."""
        num_rows = key_states.shape[2]
        places = torch.arange(-self._length, num_rows, device=key_states.device) % num_rows
        return key_states[:, :, places], value_states[:, :, places]

    def get_seq_length(self) -> int:
        """Rows before the pass, as the network is told."""
        return self._told

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many rows a mask would cover, and from which on."""
        return self._length + query_length, 0

    def get_max_length(self) -> int:
        """Rows there are."""
        return self._length
