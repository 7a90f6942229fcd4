"""Shapes of what is trained: a Llama of a width and depth, a small one or a head for a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, PreTrainedModel

from engine.errors import ConfigError

_HEAD_SIZE = 64
_MAX_POSITIONS = 2048


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """A head beside its target: width of its MLP, the target's layers it reads, steps it learns.

    It drafts the `num_drafts` most frequent tokens alone, or every token if that is None.
    """

    intermediate_size: int
    layers: tuple[int, ...]
    num_steps: int = 3
    num_drafts: int | None = None

    @classmethod
    def beside(
        cls,
        target: PreTrainedModel,
        num_steps: int = 3,
        num_drafts: int | None = None,
        layers: tuple[int, ...] | None = None,
    ) -> HeadPlan:
        """As wide as one of the target's own layers; a third, two thirds and all the way up.

        `layers` names others to read.
        """
        config = target.config.get_text_config()
        num_layers = config.num_hidden_layers
        width = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        layers = layers or (num_layers // 3, 2 * num_layers // 3, num_layers)
        if num_drafts is not None and num_drafts >= config.vocab_size:
            num_drafts = None
        return cls(width, layers, num_steps, num_drafts)


def llama(vocab_size: int, hidden_size: int, num_layers: int, **special: Any) -> LlamaConfig:
    """A Llama in heads of 64 units, or narrower if it is; raises ConfigError for an odd width."""
    if hidden_size % 16:
        raise ConfigError(f"a hidden size of {hidden_size} is no multiple of 16: try 256.")
    num_heads = max(1, hidden_size // _HEAD_SIZE)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        # Three matrices of this width weigh as much as two of the usual 4.
        intermediate_size=16 * round(8 / 3 * hidden_size / 16),
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads // 2 if num_heads % 2 == 0 else 1,
        head_dim=min(_HEAD_SIZE, hidden_size),
        max_position_embeddings=_MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        **special,
    )


def draft_of(target: PreTrainedModel, hidden_size: int | None, num_layers: int) -> LlamaConfig:
    """A small Llama with the target's vocabulary; a quarter as wide, if `hidden_size` is None."""
    config = target.config.get_text_config()
    width = hidden_size or max(64, 64 * round(config.hidden_size / 4 / 64))
    special = {name: getattr(config, name, None) for name in ("bos_token_id", "eos_token_id")}
    return llama(config.vocab_size, width, num_layers, **special)
