"""The network of a head in EAGLE-3's layout: one decoder layer that reads the target's features.

    features of token i-1 (the target's hidden states, fused by `fc`; below the root its own output)
        + embedding of token i   ->   one layer   ->   output   ->   logits of token i+1

After Li et al., EAGLE-3 (arXiv 2503.01840, section 3); parts are named as in public checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from engine import attention
from engine.masks import TreeMasks

_ARCHITECTURES = {"LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator"}


def is_head(config: Mapping[str, Any]) -> bool:
    """Whether the content of a `config.json` describes an EAGLE-3 head."""
    names = set(config.get("architectures") or ())
    return bool(names & _ARCHITECTURES) or config.get("speculators_model_type") == "eagle3"


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What a head is made of.

    `layers` are the target's hidden states that it reads, in transformers' numbering: i is what
    enters layer i, and the number of layers what the output matrix reads.
    """

    layer: LlamaConfig
    layers: tuple[int, ...]
    target_hidden_size: int
    draft_vocab_size: int
    is_norm_before_residual: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any], num_target_layers: int, target_hidden: int) -> Self:
        """From a `config.json`, flat as EAGLE writes it or nested as speculators does."""
        inner = dict(config.get("transformer_layer_config") or config)
        layer = LlamaConfig.from_dict({**inner, "model_type": "llama"})
        layer._attn_implementation = attention.NAME
        return cls(
            layer,
            _feature_layers(config, num_target_layers),
            target_hidden,
            config.get("draft_vocab_size") or layer.vocab_size,
            bool(config.get("norm_before_residual", False)),
        )


def _feature_layers(config: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    """A low, a middle and a high layer: as the checkpoint says, or EAGLE-3's own choice.

    In `eagle_config` a number means that layer's output (SGLang); at the top level, its input.
    """
    if known := config.get("eagle_aux_hidden_state_layer_ids"):
        return tuple(known)
    if known := (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids"):
        return tuple(layer + 1 for layer in known)
    return (2, num_layers // 2, num_layers - 3)


class HeadLayer(nn.Module):
    """A Llama layer whose attention reads the embedding and the feature side by side."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        config = shape.layer
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = LlamaAttention(config, layer_idx=0)
        for name in ("q_proj", "k_proj", "v_proj"):
            own = getattr(self.self_attn, name)
            wide = nn.Linear(2 * size, own.out_features, bias=own.bias is not None)
            setattr(self.self_attn, name, wide)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(size, eps=eps)
        self.hidden_norm = LlamaRMSNorm(size, eps=eps)
        self.post_attention_layernorm = LlamaRMSNorm(size, eps=eps)
        self._is_norm_before_residual = shape.is_norm_before_residual

    def forward(
        self,
        embeddings: Tensor,
        features: Tensor,
        rotary: tuple[Tensor, Tensor],
        cache: Cache,
        masks: TreeMasks,
    ) -> Tensor:
        """Both inputs and the output: (batch, rows, hidden)."""
        normed = self.hidden_norm(features)
        residual = normed if self._is_norm_before_residual else features
        both = torch.cat([self.input_layernorm(embeddings), normed], dim=-1)
        attended, _ = self.self_attn(
            both, position_embeddings=rotary, past_key_values=cache, tree_masks=masks
        )
        residual = residual + attended
        output: Tensor = residual + self.mlp(self.post_attention_layernorm(residual))
        return output


class HeadNetwork(nn.Module):
    """Features and tokens to outputs, and outputs to logits over the draft vocabulary.

    `d2t[i]` is what to add to draft token i for its id in the target's vocabulary.
    """

    d2t: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        config, size = shape.layer, shape.layer.hidden_size
        self.fc = nn.Linear(len(shape.layers) * shape.target_hidden_size, size, bias=False)
        self.midlayer = HeadLayer(shape)
        self.norm = LlamaRMSNorm(size, eps=config.rms_norm_eps)
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.lm_head = nn.Linear(size, shape.draft_vocab_size, bias=False)
        self.rotary = LlamaRotaryEmbedding(config)
        self.register_buffer("d2t", torch.zeros(shape.draft_vocab_size, dtype=torch.long))

    @property
    def draft_ids(self) -> Tensor:
        """The draft vocabulary as ids of the target's: (draft vocabulary,), ascending."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    def fuse(self, features: Tensor) -> Tensor:
        """The target's features (..., layers * target hidden) as one: (..., hidden)."""
        fused: Tensor = self.fc(features)
        return fused

    def forward(
        self, ids: Tensor, features: Tensor, positions: Tensor, cache: Cache, masks: TreeMasks
    ) -> Tensor:
        """Outputs (batch, rows, hidden) of tokens (batch, rows) and features of their parents."""
        embeddings = self.embed_tokens(ids)
        rotary = self.rotary(embeddings, positions)
        output: Tensor = self.midlayer(embeddings, features, rotary, cache, masks)
        return output

    def logits(self, outputs: Tensor) -> Tensor:
        """Logits over the draft vocabulary: (..., draft vocabulary)."""
        logits: Tensor = self.lm_head(self.norm(outputs))
        return logits

    def choose_vocabulary(self, ids: Sequence[int]) -> None:
        """Let the draft vocabulary be these ids of the target's, as many as the shape says."""
        chosen = torch.tensor(sorted(ids), device=self.d2t.device)
        self.d2t = chosen - torch.arange(len(chosen), device=self.d2t.device)
