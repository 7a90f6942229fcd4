"""Training a head on what it will meet: the target's features first, then its own output.

EAGLE-3's training-time test (Li et al., arXiv 2503.01840, section 3.2): step k predicts the token
k+1 ahead of what the target has read, from the outputs of step k-1. In half of the rows of each
such step the feature is not renewed, since below draft² a parent and its child often share a pass,
and the child's row then holds the feature above both (`engine.drafting.head`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, PreTrainedModel

from engine import attention
from engine.drafting.head_network import HeadNetwork, HeadShape
from engine.masks import DenseMasks
from engine.training.objectives import soft_cross_entropy, vocabulary
from engine.training.trainer import HeldOut

_STEP_WEIGHT = 0.8
"""Each step ahead counts so much of the one before it, as it is reached so much less often."""


class Lesson(NamedTuple):
    """What the target says of a batch of L tokens.

    Its features [B, L, layers * hidden], its probabilities of the draft vocabulary [B, L, drafts],
    and its first choices among all tokens [B, L].
    """

    features: Tensor
    wanted: Tensor
    choices: Tensor


def new_head(
    target: PreTrainedModel,
    intermediate_size: int,
    layers: Sequence[int],
    draft_ids: Sequence[int] | None = None,
) -> HeadNetwork:
    """A head that shares the target's embedding and output matrix, which stay as they are.

    It begins by repeating its highest feature, from which the target has just chosen a token. It
    can draft `draft_ids` alone, or every token of the target's.
    """
    layer = _layer_config(target, intermediate_size)
    size, num_drafts = layer.hidden_size, len(draft_ids or ()) or layer.vocab_size
    head = HeadNetwork(HeadShape(layer, tuple(layers), size, num_drafts))
    if draft_ids:
        head.choose_vocabulary(draft_ids)
    with torch.no_grad():
        head.fc.weight[:] = torch.eye(size).repeat(1, len(layers))
        head.fc.weight[:, :-size] = 0
        for part in (head.midlayer.self_attn.o_proj, head.midlayer.mlp.down_proj):
            part.weight.mul_(0.1)
    share(head, target)
    return head.to(target.device)


def _layer_config(target: PreTrainedModel, intermediate_size: int) -> LlamaConfig:
    config = target.config.get_text_config()
    num_heads = config.num_attention_heads
    layer = LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=num_heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=getattr(config, "rms_norm_eps", None) or 1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": _rope_theta(config)},
    )
    layer._attn_implementation = attention.NAME
    return layer


def _rope_theta(config: Any) -> float:
    """The base of the target's rotary angles; of several, that of its full attention."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    return float(rope.get("rope_theta") or 10000.0)


def share(head: HeadNetwork, target: PreTrainedModel) -> None:
    """Let the head read and write tokens with the target's own matrices, untrained."""
    target.requires_grad_(False)
    embedding = cast(Tensor, target.get_input_embeddings().weight).detach().float()
    output = cast(Tensor, target.get_output_embeddings().weight).detach().float()
    chosen = output if head.shape.draft_vocab_size == len(output) else output[head.draft_ids]
    head.embed_tokens.weight = nn.Parameter(embedding, requires_grad=False)
    head.lm_head.weight = nn.Parameter(chosen, requires_grad=False)


class TrainingTimeTest:
    """A head learns the target's distributions, `num_steps` tokens ahead."""

    def __init__(self, head: HeadNetwork, target: PreTrainedModel, num_steps: int = 3) -> None:
        self.head = head
        self._target = target.requires_grad_(False)
        self._num_steps = num_steps
        self._is_whole = head.shape.draft_vocab_size >= vocabulary(target)

    @property
    def module(self) -> nn.Module:
        """The head."""
        return self.head

    @property
    def logits_per_token(self) -> int:
        """The target's vocabulary once, the draft vocabulary at every step."""
        num_drafts = self.head.shape.draft_vocab_size
        return vocabulary(self._target) + self._num_steps * num_drafts

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy against the target's distribution, over the steps ahead, in nats.

        What the target gives to tokens beyond the draft vocabulary counts nowhere.
        """
        lesson = self._teach(batch)
        total, weights = torch.zeros((), device=batch.device), 0.0
        for step, given in enumerate(self._ahead(batch, lesson.features, is_mixed=True)):
            wanted = lesson.wanted[:, step + 1 : step + 1 + given.shape[1]]
            total = total + _STEP_WEIGHT**step * soft_cross_entropy(given, wanted)
            weights += _STEP_WEIGHT**step
        return total / weights

    @torch.no_grad()
    def held_out(self, sequences: Sequence[Tensor]) -> HeldOut:
        """The loss of the first step, and agreement with the target at each step.

        A token that the head cannot draft is one on which it disagrees.
        """
        losses: list[float] = []
        equal: list[list[Tensor]] = [[] for _ in range(self._num_steps)]
        for ids in (each.to(self._target.device) for each in sequences):
            lesson = self._teach(ids)
            for step, given in enumerate(self._ahead(ids, lesson.features, is_mixed=False)):
                rows = slice(step + 1, step + 1 + given.shape[1])
                choices = self.head.draft_ids[given.argmax(-1)]
                equal[step].append((choices == lesson.choices[:, rows]).flatten())
                if step == 0:
                    losses.append(soft_cross_entropy(given, lesson.wanted[:, rows]).item())
        agreement = tuple(torch.cat(each).float().mean().item() for each in equal)
        return HeldOut(sum(losses) / len(losses), agreement)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _teach(self, batch: Tensor) -> Lesson:
        output = self._target(input_ids=batch[:, :-1], use_cache=False, output_hidden_states=True)
        states = [output.hidden_states[layer] for layer in self.head.shape.layers]
        wanted: Tensor = output.logits.float().softmax(-1)
        drafted = wanted if self._is_whole else wanted[..., self.head.draft_ids]
        features = torch.cat(states, dim=-1).to(self.head.fc.weight.dtype)
        return Lesson(features, drafted, output.logits.argmax(-1))

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
            outputs = self.head(tokens, known, (rows + step)[None], cache, DenseMasks(seen))
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
