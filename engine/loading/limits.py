"""What the engine must know of a model, from its configuration; what it cannot keep is refused."""

import sys
from collections.abc import Mapping
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from engine.errors import ModelLoadError
from engine.recurrent import check_layers
from engine.scorer import ModelLimits

_UNBOUNDED = 1 << 20
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_RECURRENT_TYPES = {"linear_attention", "conv", "hybrid", "mlp", "moe"}


def read_limits(config: PretrainedConfig) -> ModelLimits:
    """What the engine must know of a model, from its configuration; refuses what it cannot keep."""
    text: Any = config.get_text_config()
    if not isinstance(getattr(text, "vocab_size", None), int):
        raise ModelLoadError(
            f"{text.model_type} has no vocabulary: it is no language model, and cannot be served."
        )
    _check_layers(config, set(getattr(text, "layer_types", None) or ()))
    return ModelLimits(
        vocab_size=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", None) or _UNBOUNDED,
        eos_token_ids=eos_token_ids(text, None),
        window=getattr(text, "sliding_window", None) or 0,
        rope_boundary=rope_boundary(text),
    )


def _check_layers(config: PretrainedConfig, kinds: set[str]) -> None:
    """Refuse layers of other kinds than can be kept. Raises ModelLoadError."""
    unknown, reason = kinds - _LAYER_TYPES, ""
    if unknown and unknown <= _RECURRENT_TYPES and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        network: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        try:
            return check_layers(sys.modules[network.__module__])
        except ModelLoadError as error:
            reason = f" ({error})"
    if unknown:
        raise ModelLoadError(
            f"{config.get_text_config().model_type} has {', '.join(sorted(unknown))} layers, whose "
            f"state cannot be rolled back to a tree's node{reason}; models of full or sliding "
            "attention, with gated delta rules, Mamba2 or short convolutions, can be served."
        )


def rope_boundary(text: PretrainedConfig) -> int | None:
    """The length beyond which a text has other rotary factors; None where one set serves all.

    Raises ModelLoadError for factors that change with every length.
    """
    given: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [part for part in given.values() if isinstance(part, Mapping)]  # by kind of layer
    boundaries = set()
    for part in nested or [given]:
        rope_type = part.get("rope_type") or part.get("type") or "default"
        if "dynamic" in rope_type:
            raise ModelLoadError(
                "dynamic rotary scaling changes with the length of the text, which a cached tree "
                "cannot follow; choose a checkpoint with linear, yarn, llama3 or longrope scaling."
            )
        if rope_type == "longrope":
            key = "original_max_position_embeddings"
            boundaries.add(part.get(key) or getattr(text, key, None))
    if len(boundaries) > 1:
        raise ModelLoadError(
            f"the layers change their rotary factors at several lengths "
            f"({', '.join(map(str, boundaries))}); only models with one can be served."
        )
    return boundaries.pop() if boundaries else None


def eos_token_ids(*configs: object) -> tuple[int, ...]:
    """The ids that end a text; a checkpoint may name more of them for generation."""
    found: list[int] = []
    for config in configs:
        eos = getattr(config, "eos_token_id", None)
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    return tuple(dict.fromkeys(found))


def of_text(config: PretrainedConfig, key: str) -> Any:
    """What a configuration says, itself or in its part for text."""
    return getattr(config, key, None) or getattr(config.get_text_config(), key, None)
