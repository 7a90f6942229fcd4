"""The key-value cache of one network: preallocated rows, written in place, rolled back by a number.

    rows   0 .. committed tokens .. | tree nodes, in the order in which they were scored | free
                                    ^ the caller knows where the committed rows end

Every layer, sliding ones too, keeps all rows: a ring could not be rolled back. Beside keys and
values a row may have features: the hidden states that a head reads. `PassRows` shows the rows to
stock model code as a transformers `Cache`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache as Cache
from transformers.cache_utils import CacheLayerMixin

from engine.memory import require


class KVCache:
    """`length` rows are in use, of at most `capacity`; three verbs change that, none allocates.

    `rows` are the keys and the values of the first layer, of the second, and so on, each of shape
    (1, heads, capacity, size). Unused rows are zero, and always finite: a masked row's weight is 0,
    and 0 times infinity is not a number.
    """

    def __init__(self, capacity: int, like: Sequence[Tensor]) -> None:
        self.capacity = capacity
        self.length = 0
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

    @classmethod
    def of(cls, capacity: int, run: Callable[[Cache], object]) -> "KVCache":
        """A cache of the shapes that a pass over one token, `run`, writes to the one it is given.

        Only the network itself knows what each of its layers keeps. Raises ConfigError if there is
        not the memory for it.
        """
        probe = DynamicCache()
        with torch.inference_mode():
            run(probe)
        layers = cast(Any, probe.layers)
        like = [rows for layer in layers for rows in (layer.keys, layer.values)]
        num_bytes = capacity * sum(rows.nbytes for rows in like)
        require(
            num_bytes,
            like[0].device,
            f"a cache of {capacity} rows",
            "choose a lower max_model_len.",
        )
        return cls(capacity, like)

    def free_slots(self, num_rows: int) -> range:
        """Indices of the next rows. Raises ValueError if there are not so many."""
        end = self.length + num_rows
        if end > self.capacity:
            raise ValueError(f"{end} rows do not fit a cache of {self.capacity}")
        return range(self.length, end)

    def extend(self, num_rows: int) -> None:
        """Count in the rows that a forward pass has just written behind those in use."""
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
            places = torch.tensor(kept, device=self.rows[0].device)
            for block in self._blocks.values():
                block[..., start:end, :] = block.index_select(-2, places)
            if self._features is not None:
                self._features[start:end] = self._features[places]
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


class PassRows(Cache):
    """A cache's rows as one forward pass sees them: it writes `slots` and reads `length` of them.

    Made of tensors alone, so that a pass is a function that can be compiled. `slots` are indices of
    rows, one for each token of the pass; without a length all rows are read.
    """

    def __init__(self, rows: Sequence[Tensor], slots: Tensor, length: int | None) -> None:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        length = rows[0].shape[2] if length is None else length
        super().__init__(layers=[_PassLayer(keys, values, slots, length) for keys, values in pairs])

    def of_layer(self, number: int) -> "LayerRows":
        """The rows of one layer alone, for a layer of whatever number."""
        return LayerRows(layers=[self.layers[number]])


class LayerRows(Cache):
    """The rows of one layer as that layer sees them, which need not say which one it is."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's rows into their slots and return all that it may see, as views."""
        return cast(_PassLayer, self.layers[0]).update(key_states, value_states)


class _PassLayer(CacheLayerMixin):
    """One layer's keys and values during one pass."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self._slots = slots
        self._length = length
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the pass's rows into their slots and return all that it may see, as views."""
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        keys.index_copy_(2, self._slots, key_states)
        values.index_copy_(2, self._slots, value_states)
        return keys[:, :, : self._length], values[:, :, : self._length]

    def get_seq_length(self) -> int:
        """Rows before the pass; 0, since positions are given to the model."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many rows a mask would cover, and from which on."""
        return self._length, 0

    def get_max_length(self) -> int:
        """Rows there are."""
        return int(cast(Tensor, self.keys).shape[2])
