"""Tree attention, registered with transformers under our own name.

The masks of a pass are built once and travel as the forward keyword `tree_masks`; each layer picks
the full or the windowed ones by its own `sliding_window`. No mask function is registered under this
name, so models build none of their own and pass `attention_mask=None`. Under the name `STOCK` they
do build theirs, and it must be the same.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from engine.errors import ModelLoadError
from engine.kernels import triton_attention
from engine.kernels.attention import attend
from engine.kernels.sight import Sight
from engine.masks import PackedMasks, TreeMasks

NAME = "stagetree"
STOCK = "stagetree_stock"
CPU_KERNEL, GPU_KERNEL = "stagetree_cpu", "stagetree_gpu"

_WINDOW = "_stagetree_window"
_ATTENTION = "_attn_implementation"
_OURS = (NAME, STOCK, CPU_KERNEL, GPU_KERNEL)

# Arguments that models pass and that change nothing here: bookkeeping, or causality, which the
# mask already holds. Anything else would be a silent error if ignored, so it is refused by name.
_HARMLESS = frozenset(
    {
        "cache_position",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


class Kernel(Protocol):
    """An attention of our own, which reads packed masks."""

    def __call__(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        sight: Sight,
        *,
        scaling: float | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention of (1, heads, rows, size) over the cache, as (1, rows, heads, size)."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree_masks: TreeMasks | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    kernel: Kernel | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of (1, heads, queries, size) over the cache's rows, as (1, queries, heads, size).

    Honours grouped-query heads, sliding windows, soft-capping and attention sinks (`s_aux`).
    """
    if unknown := {name for name, given in kwargs.items() if given is not None} - _HARMLESS:
        raise ModelLoadError(
            f"this model passes {', '.join(sorted(unknown))} to its attention, "
            "which tree attention does not know; it cannot be served."
        )
    if tree_masks is None:
        raise ModelLoadError(
            f"{type(module).__name__} does not hand keyword arguments down to its attention, "
            "so the tree mask cannot reach it; this model cannot be served."
        )
    window, num_queries = _window_of(module, sliding_window), query.shape[2]
    if kernel is not None and isinstance(tree_masks, PackedMasks):
        sight = tree_masks.sight(window).of_last(num_queries)
        output = kernel(query, key, value, sight, scaling=scaling, softcap=softcap, sinks=s_aux)
        return output, None
    attend = partial(_attention, scaling=scaling, softcap=softcap, sinks=s_aux)
    outputs, end = [], num_queries
    # From the last row on: a layer may be asked for no others.
    for extent, mask in reversed(tree_masks.shares(window, key.shape[2], query.dtype)):
        start = max(0, end - extent.num_rows)
        if start < end:
            seen = slice(extent.first, extent.end)
            mask = mask[:, :, start - end :]
            part = attend(query[:, :, start:end], key[:, :, seen], value[:, :, seen], mask)
            outputs.append(part)
        end = start
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs[::-1], dim=2)
    return output.transpose(1, 2).contiguous(), None


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """By torch's own operations, (1, heads, queries, size)."""
    if softcap is not None or sinks is not None:
        return _explicit_attention(query, key, value, mask, scaling, softcap, sinks)
    is_grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
    )


def _window_of(module: nn.Module, given: int | None) -> int | None:
    """A layer's window, as its mask in stock transformers has it where that has been looked at."""
    window: int | None = getattr(module, _WINDOW, given)
    return window


def _stock_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    tree_masks: PackedMasks | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Tree attention, for which the mask that transformers has made tells the layer's window.

    Some keep it from their attention. Raises ModelLoadError for a mask of another kind.
    """
    if tree_masks is not None:
        candidates = dict.fromkeys((sliding_window, None, tree_masks.window or None))
        length = key.shape[2]
        masks = {each: tree_masks.shares(each, length, query.dtype)[0].mask for each in candidates}
        setattr(module, _WINDOW, _window_seen(module, attention_mask, masks))
    return tree_attention(module, query, key, value, None, tree_masks, **kwargs)


def _window_seen(
    module: nn.Module, attention_mask: Tensor | None, masks: Mapping[int | None, Tensor]
) -> int | None:
    """The first window of `masks` under which a layer sees what its own mask shows it."""
    ours = {window: mask == 0 for window, mask in masks.items()}
    theirs = torch.ones_like(ours[None]) if attention_mask is None else attention_mask == 0
    for window, seen in ours.items():
        if torch.equal(seen, theirs):
            return window
    is_causal = not (theirs & ~ours[None]).any()
    reach = int(theirs[..., -1, :].sum()) if is_causal else 0
    remedy = f"set max_model_len to {reach} or less" if reach else "it cannot be served"
    raise ModelLoadError(
        f"layer {getattr(module, 'layer_idx', '?')} of this model sees other tokens in stock "
        f"transformers than a token tree can show it, by a mask of its own: {remedy}."
    )


def _explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same in separate operations, for what the fused kernel has no argument for."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    weights = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    weights = weights + mask
    if sinks is not None:
        sinks = sinks.reshape(1, -1, 1, 1).expand(*weights.shape[:3], 1)
        weights = torch.cat([weights, sinks], dim=-1)
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value


def use(network: nn.Module, name: str) -> None:
    """Let this one of our attentions, which must be there, do a network's."""
    for config in _configs(network, _ATTENTION, _OURS):
        setattr(config, _ATTENTION, name)


def without_kernel(network: nn.Module) -> AbstractContextManager[None]:
    """Let torch's own operations do a network's attention for a while, in whatever precision."""
    return _changed(network, _ATTENTION, (CPU_KERNEL, GPU_KERNEL), NAME)


def without_grouped_experts(network: nn.Module) -> AbstractContextManager[None]:
    """Let each expert of a network multiply by itself for a while, in whatever precision.

    The product of all of them at once knows few.
    """
    return _changed(network, "_experts_implementation", ("grouped_mm",), "eager")


@contextmanager
def _changed(network: nn.Module, name: str, values: Sequence[str], other: str) -> Iterator[None]:
    """Let what is called one of `values` in a network's configurations be another for a while."""
    used = [(each, getattr(each, name)) for each in _configs(network, name, values)]
    for config, _ in used:
        setattr(config, name, other)
    try:
        yield
    finally:
        for config, value in used:
            setattr(config, name, value)


def _configs(network: nn.Module, name: str, values: Sequence[str]) -> list[Any]:
    """The configurations in a network of which the attribute `name` is one of `values`."""
    configs = [getattr(module, "config", None) for module in network.modules()]
    return [each for each in configs if getattr(each, name, None) in values]


def has_gpu_kernel() -> bool:
    """Whether the kernel for GPUs is there, and right on the one of this process."""
    return triton_attention.is_usable()


AttentionInterface.register(NAME, tree_attention)
AttentionInterface.register(STOCK, _stock_attention)
AttentionMaskInterface.register(STOCK, eager_mask)
AttentionInterface.register(CPU_KERNEL, partial(tree_attention, kernel=attend))
AttentionInterface.register(GPU_KERNEL, partial(tree_attention, kernel=triton_attention.attend))
