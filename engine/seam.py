"""Proof that a network does at the end of a long text, for us, what stock transformers would do.

What only shows there: windows that no attention is told of, blocks, factors that follow from how
many rows a cache says it has. Rows are made up, so a window of thousands costs one narrow pass.
"""

import math
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from engine import attention
from engine.errors import ModelLoadError
from engine.kv_cache import Cache
from engine.masks import DenseMasks, PackedMasks
from engine.parts import Part, join
from engine.rows import Rows
from engine.tree import TokenTree

_TOKENS = (1, 5, 9, 17)
_FAR_ROWS = 1 << 14
"""Beyond so many rows, or beyond a window if it is wider, nothing new is expected."""
_NOISE = 4


def check_far(network: PreTrainedModel, vocab_size: int, window: int, max_model_len: int) -> None:
    """Refuse a network that at the end of its longest text is another in stock transformers.

    `window` is that of sliding layers, 0 for none. Raises ModelLoadError.
    """
    length = min(max_model_len - len(_TOKENS), max(_FAR_ROWS, window + len(_TOKENS)))
    if length < 1:
        return
    text = [token % vocab_size for token in _TOKENS]
    far = partial(_logits, network, text, window, length)
    name = network.config._attn_implementation
    ours = far(told=0, start=length)
    rounding = torch.finfo(network.dtype).eps * ours.abs().max()
    attention.use(network, attention.STOCK)
    try:
        stock = far(told=length, start=None)
        error = (stock - ours).abs().max()
        if not error <= rounding and torch.equal(stock, far(told=length, start=0)):
            # It counts anew behind a cache, unless it is told, as it is by whoever generates.
            error = (far(told=length, start=length) - ours).abs().max()
    finally:
        attention.use(network, name)
    # Some kernels add in another order every time.
    noise = (far(told=0, start=length) - ours).abs().max() if error > rounding else 0
    if not error <= max(rounding, _NOISE * noise):
        raise ModelLoadError(
            f"{type(network).__name__} scores tokens by how long its cache says it is, and not by "
            f"their positions alone (behind {length} tokens by {error:.2g}): the nodes of a tree "
            f"have nothing else, so it cannot be served with a max_model_len of {max_model_len}."
        )


@torch.inference_mode()
def _logits(
    network: PreTrainedModel,
    text: list[int],
    window: int,
    length: int,
    told: int,
    start: int | None,
) -> Tensor:
    """Logits (tokens, vocabulary) of these tokens behind so many rows, in float32.

    The cache says that there are `told` of them, and positions begin at `start`; None: the network
    is not told where, and follows the cache in stock transformers.
    """
    before = Rows(0, length + len(text))
    before.add([0] * length, ())
    inputs = join([Part.of_text(before, text, TokenTree(0), ())], window)
    rows, visible, windowed, _ = (tensor.to(network.device) for tensor in inputs)
    ids = rows[:1]
    positions = None if start is None else torch.arange(start, start + len(text))[None].to(ids)
    num_layers = network.config.get_text_config().num_hidden_layers
    output = network(
        input_ids=ids,
        position_ids=positions,
        past_key_values=RepeatedRows(num_layers, length, told),
        use_cache=True,
        tree_masks=PackedMasks(rows[2:], visible, windowed, window),
    )
    logits: Tensor = output.logits[0].float()
    return logits


@torch.inference_mode()
def without_cache(network: PreTrainedModel, text: list[int]) -> Tensor:
    """Logits (tokens, vocabulary) of a text alone, by the network's own functions."""
    causal = torch.full((len(text), len(text)), -math.inf).triu(1)
    output = network(
        input_ids=torch.tensor([text], device=network.device),
        use_cache=False,
        tree_masks=DenseMasks(causal[None, None].to(network.device, network.dtype)),
    )
    logits: Tensor = output.logits[0]
    return logits


class RepeatedRows(Cache):
    """A cache of `length` rows, which are those of the pass itself, over and over.

    Nothing is kept, so that a long text's end costs little. Of the rows before the pass the network
    is told that there are `told`.
    """

    def __init__(self, num_layers: int, length: int, told: int) -> None:
        super().__init__(layers=[_RepeatedLayer(length, told) for _ in range(num_layers)])

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """None: a state does not know how long its text is."""

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """None, too."""

    def update_conv_state(self, conv_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Of the pass alone."""
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: Tensor, *args: object, **kwargs: object
    ) -> Tensor:
        """Nothing is kept."""
        return recurrent_states


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
