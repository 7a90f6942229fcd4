"""Training a head on what it will meet: the target's features first, then its own output.

EAGLE-3's training-time test (Li et al., arXiv 2503.01840, section 3.2): step k predicts the token
k+1 ahead of what the target has read, from the outputs of step k-1. In half of the rows of each
such step the feature is not renewed, since below draft² a parent and its child often share a pass,
and the child's row then holds the feature above both (`engine.drafting.head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, PreTrainedModel

from engine import attention
from engine.attention import TreeMasks
from engine.drafting.head_network import HeadNetwork, HeadShape
from engine.training.objectives import soft_cross_entropy
from engine.training.trainer import HeldOut

_STEP_WEIGHT = 0.8
"""Each step ahead counts so much of the one before it, as it is reached so much less often."""


def new_head(target: PreTrainedModel, intermediate_size: int, layers: Sequence[int]) -> HeadNetwork:
    """A head that shares the target's embedding and output matrix, which stay as they are.

    It begins by repeating its highest feature, from which the target has just chosen a token.
    """
    config = target.config.get_text_config()
    size, num_heads = config.hidden_size, config.num_attention_heads
    layer = LlamaConfig(
        hidden_size=size,
        intermediate_size=intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=num_heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", num_heads),
        head_dim=getattr(config, "head_dim", None) or size // num_heads,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
        rope_parameters=getattr(config, "rope_parameters", None),
    )
    layer._attn_implementation = attention.NAME
    head = HeadNetwork(HeadShape(layer, tuple(layers), size, config.vocab_size))
    with torch.no_grad():
        head.fc.weight[:] = torch.eye(size).repeat(1, len(layers))
        head.fc.weight[:, :-size] = 0
        for part in (head.midlayer.self_attn.o_proj, head.midlayer.mlp.down_proj):
            part.weight.mul_(0.1)
    share(head, target)
    return head.to(target.device)


def share(head: HeadNetwork, target: PreTrainedModel) -> None:
    """Let the head read and write tokens with the target's own matrices, untrained."""
    target.requires_grad_(False)
    head.embed_tokens.weight = cast(nn.Parameter, target.get_input_embeddings().weight)
    output = cast(nn.Parameter, target.get_output_embeddings().weight)
    head.lm_head.weight = nn.Parameter(output[head.draft_ids], requires_grad=False)


class TrainingTimeTest:
    """A head learns the target's distributions, `num_steps` tokens ahead."""

    def __init__(self, head: HeadNetwork, target: PreTrainedModel, num_steps: int = 3) -> None:
        self.head = head
        self._target = target.requires_grad_(False)
        self._num_steps = num_steps

    @property
    def module(self) -> nn.Module:
        """The head."""
        return self.head

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy against the target's distribution, over the steps ahead, in nats."""
        features, wanted = self._teach(batch)
        total, weights = torch.zeros((), device=batch.device), 0.0
        for step, given in enumerate(self._ahead(batch, features, is_mixed=True)):
            rows = wanted[:, step + 1 : step + 1 + given.shape[1]]
            total = total + _STEP_WEIGHT**step * soft_cross_entropy(given, rows.softmax(-1))
            weights += _STEP_WEIGHT**step
        return total / weights

    def held_out(self, sequences: Sequence[Tensor]) -> HeldOut:
        """The loss of the first step, and agreement with the target at each step."""
        losses: list[float] = []
        equal: list[list[Tensor]] = [[] for _ in range(self._num_steps)]
        for ids in sequences:
            features, wanted = self._teach(ids)
            for step, given in enumerate(self._ahead(ids, features, is_mixed=False)):
                rows = wanted[:, step + 1 : step + 1 + given.shape[1]]
                equal[step].append((given.argmax(-1) == rows.argmax(-1)).flatten())
                if step == 0:
                    losses.append(soft_cross_entropy(given, rows.softmax(-1)).item())
        agreement = tuple(torch.cat(each).float().mean().item() for each in equal)
        return HeldOut(sum(losses) / len(losses), agreement)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _teach(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The target's features [B, L, layers * hidden] and logits over the draft vocabulary."""
        output = self._target(input_ids=batch[:, :-1], use_cache=False, output_hidden_states=True)
        states = [output.hidden_states[layer] for layer in self.head.shape.layers]
        ids = self.head.draft_ids
        whole: Tensor = output.logits
        return torch.cat(states, dim=-1), whole if len(ids) == whole.shape[-1] else whole[..., ids]

    def _ahead(self, batch: Tensor, features: Tensor, is_mixed: bool) -> list[Tensor]:
        """Logits [B, R, draft vocabulary] of every step; row r of step k is about token r + k + 2.

        Row r first reads token r + 1 with the features of token r, then at each step the text's
        next token with what it said itself. It sees the first step's rows up to its own, and of
        each later step its own row alone: the path that a draft of its own would have taken.
        """
        num_rows = features.shape[1] - self._num_steps
        known = self.head.fuse(features[:, :num_rows])
        rows = torch.arange(num_rows, device=batch.device)
        cache, masks, given = DynamicCache(), self._masks(num_rows, known), []
        for step in range(self._num_steps):
            tokens = batch[:, step + 1 : step + 1 + num_rows]
            seen = masks[..., : num_rows * (step + 1)]
            outputs = self.head(tokens, known, (rows + step)[None], cache, TreeMasks(seen, seen))
            given.append(self.head.logits(outputs))
            is_kept = ((rows >> step) & 1).bool()[None, :, None]
            known = torch.where(is_kept, known, outputs) if is_mixed else outputs
        return given

    def _masks(self, num_rows: int, like: Tensor) -> Tensor:
        """Additive [1, 1, R, steps * R]: causal in the first block, diagonal in the others."""
        causal = torch.ones(num_rows, num_rows, dtype=torch.bool, device=like.device).tril()
        own = torch.eye(num_rows, dtype=torch.bool, device=like.device)
        visible = torch.cat([causal, *[own] * (self._num_steps - 1)], dim=1)
        mask = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill(~visible, float("-inf"))[None, None]
