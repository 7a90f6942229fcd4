"""Tree attention, registered with transformers under our own name.

The mask of a pass is built once and travels as the forward keyword `tree_masks`; each layer picks
the full or the windowed one by its own `sliding_window`. No mask function is registered under this
name, so models build none of their own and pass `attention_mask=None`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from engine.errors import ModelLoadError
from engine.kernels.attention import attend

NAME = "stagetree"
_NAME_OF_KERNEL = "stagetree_kernel"

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


@dataclass(frozen=True, slots=True)
class TreeMasks:
    """Additive masks of one pass, (1, 1, queries, rows) in the model's precision.

    None means that every query may see every row, as in plain decoding. `windowed` is for layers
    whose window is `window` positions wide.
    """

    full: Tensor | None = None
    windowed: Tensor | None = None
    window: int = 0

    def of(self, sliding_window: int | None) -> Tensor | None:
        """The mask for a layer of this window."""
        if sliding_window is None:
            return self.full
        if sliding_window != self.window:
            raise ModelLoadError(
                f"a layer has a window of {sliding_window} positions, its model one of "
                f"{self.window}: models with several window sizes are not supported."
            )
        return self.windowed


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
    has_kernel: bool = False,
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
    mask = tree_masks.of(sliding_window)
    if softcap is None and s_aux is None:
        if has_kernel and mask is not None:
            return attend(query, key, value, mask, scaling), None
        is_grouped = query.shape[1] != key.shape[1]
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
        )
    else:
        output = _explicit_attention(query, key, value, mask, scaling, softcap, s_aux)
    return output.transpose(1, 2).contiguous(), None


def _explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
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
    if mask is not None:
        weights = weights + mask
    if sinks is not None:
        sinks = sinks.reshape(1, -1, 1, 1).expand(*weights.shape[:3], 1)
        weights = torch.cat([weights, sinks], dim=-1)
    weights = weights.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value


def use_kernel(network: nn.Module) -> None:
    """Let our kernel, which must be loaded, do what it can of a network's attention."""
    for module in network.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == NAME:
            config._attn_implementation = _NAME_OF_KERNEL


AttentionInterface.register(NAME, tree_attention)
AttentionInterface.register(_NAME_OF_KERNEL, partial(tree_attention, has_kernel=True))
