"""The key-value cache of one network: preallocated rows, written in place, and moved by number.

Who has which rows, and how many of them, others know (`engine.rows`). Every layer, sliding ones
too, keeps all rows: a ring could not be rolled back. Beside keys and values a row may have
features: the hidden states that a head reads. `PassRows` shows the rows to stock model code as a
transformers `Cache`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache as Cache
from transformers.cache_utils import CacheLayerMixin

from engine.errors import ModelLoadError
from engine.recurrent import KeptByLayer, PassStates, StatesOfPass, Windows


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


class Kept(NamedTuple):
    """What a network keeps of one token: rows (keys, values, ...) of the layers that have any, of
    these numbers, and states by the numbers of their layers."""

    rows: list[Tensor]
    numbers: list[int]
    states: Mapping[int, KeptByLayer]


def kept_by(run: Callable[[Cache], object]) -> Kept:
    """What a pass over one token, `run`, writes to the cache that it is given.

    Only the network itself knows what each of its layers keeps. Raises ModelLoadError if that is
    more than can be kept here.
    """
    probe = _Probe()
    with torch.inference_mode():
        run(probe)
    layers = cast(Any, probe.layers)
    if not any(each.is_initialized for each in layers):
        raise ModelLoadError(
            "none of its layers writes keys and values to a cache: what has no attention, or keeps "
            "its rows elsewhere, cannot be served."
        )
    numbers = [number for number, each in enumerate(layers) if each.is_initialized]
    rows = [rows for number in numbers for rows in (layers[number].keys, layers[number].values)]
    return Kept(rows, numbers, probe.states)


class _Probe(DynamicCache):
    """A cache that remembers what is written to it; states are those of an empty text."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, KeptByLayer] = {}

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """There is none yet."""

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """There is none yet."""

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Remember the input of a convolution."""
        if state_idx or conv_kernel_size is None:
            raise ModelLoadError(
                f"layer {layer_idx} keeps more of its text than the end of one convolution, or "
                "does not say how much that is"
            )
        window = conv_states[..., :1].expand(-1, -1, conv_kernel_size)
        self.states[layer_idx] = KeptByLayer(window)
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **kwargs: object
    ) -> Tensor:
        """Remember the state of a recurrence."""
        if state_idx or layer_idx not in self.states:
            raise ModelLoadError(f"layer {layer_idx} keeps a state without a convolution")
        self.states[layer_idx].state = recurrent_states
        return recurrent_states


class _PassStates(Cache):
    """What layers see that have `states`, by number, in place of rows."""

    def __init__(self, layers: list[Any], states: Mapping[int, PassStates]) -> None:
        super().__init__(layers=layers)
        self._states = states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """None, or one token alone would be read in another way than several."""

    def update_conv_state(  # type: ignore[override]
        self, conv_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> Windows:
        """What the convolution sees at each row."""
        return self._of(layer_idx).windows(conv_states)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> PassStates:  # type: ignore[override]
        """What stands for the state where a layer's function is ours."""
        return self._of(layer_idx)

    def update_recurrent_state(self, *args: object, **kwargs: object) -> None:  # type: ignore[override]
        """Nothing: the rows are known already, and become the state's when they are accepted."""

    def _of(self, number: int) -> PassStates:
        return self._states[number]


class PassRows(_PassStates):
    """A cache's rows as one forward pass sees them: it writes `slots` and may read all.

    Made of tensors alone, so that a pass is a function that can be compiled. `slots` are indices of
    rows, one for each token of the pass. Some layers may have `states` in place of rows.
    """

    def __init__(
        self, rows: Sequence[Tensor], slots: Tensor, states: StatesOfPass | None = None
    ) -> None:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        layers: list[Any] = [_PassLayer(keys, values, slots) for keys, values in pairs]
        if states is not None:
            # Whoever has no rows asks for none.
            numbered = dict(zip(states.with_rows, layers, strict=True))
            count = max(*numbered, *states.by_layer) + 1
            layers = [numbered.get(number, layers[0]) for number in range(count)]
        super().__init__(layers, states.by_layer if states else {})

    def of_layer(self, number: int) -> "LayerRows":
        """What one layer alone keeps, for a layer of whatever number."""
        own = {0: self._states[number]} if number in self._states else {}
        return LayerRows([self.layers[number]], own)


class LayerRows(_PassStates):
    """What one layer keeps as that layer sees it, which need not say which one it is."""

    def _of(self, number: int) -> PassStates:
        return self._states[0]

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
