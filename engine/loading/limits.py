"""What the engine must know of a model, from its configuration; what it cannot keep is refused."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from engine.errors import ModelLoadError
from engine.scorer import ModelLimits

_UNBOUNDED = 1 << 20
_LAYER_TYPES = {"full_attention", "sliding_attention"}


def read_limits(config: PretrainedConfig) -> ModelLimits:
    """What the engine must know of a model, from its configuration; refuses what it cannot keep."""
    text: Any = config.get_text_config()
    if not isinstance(getattr(text, "vocab_size", None), int):
        raise ModelLoadError(
            f"{text.model_type} has no vocabulary: it is no language model, and cannot be served."
        )
    kinds = set(getattr(text, "layer_types", None) or ())
    if unknown := kinds - _LAYER_TYPES:
        raise ModelLoadError(
            f"{text.model_type} has {', '.join(sorted(unknown))} layers, whose state cannot be "
            "rolled back to a tree's node; models of full or sliding attention can be served."
        )
    return ModelLimits(
        vocab_size=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", None) or _UNBOUNDED,
        eos_token_ids=eos_token_ids(text, None),
        window=getattr(text, "sliding_window", None) or 0,
        rope_boundary=rope_boundary(text),
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
