"""From a name to a `Model`: checkpoints on disk or on the Hugging Face hub, dtype and device.

`embedded/...` names a part of the family that ships with the engine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging

from engine import attention
from engine.errors import ConfigError, ModelLoadError
from engine.model import Model
from engine.scorer import ModelLimits

_EMBEDDED = Path(__file__).parent
_UNBOUNDED = 1 << 20
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve(name: str) -> str:
    """The folder of an `embedded/...` name; any other name as it is."""
    return str(_EMBEDDED / name) if name.startswith("embedded/") else name


def load_model(
    name: str, *, dtype: str, device: str, max_model_len: int | None, chunk: int
) -> Model:
    """Load a checkpoint, prove that it obeys tree masks, and give it a cache.

    Raises ModelLoadError for weights that cannot be found or an architecture that cannot be
    served, ConfigError for a device or precision that this machine lacks.
    """
    place = choose_device(device)
    try:
        config = AutoConfig.from_pretrained(resolve(name))
        limits = read_limits(config)
        with _no_progress_bar():
            network = AutoModelForCausalLM.from_pretrained(
                resolve(name),
                dtype=choose_dtype(dtype, place, config),
                attn_implementation=attention.NAME,
            )
        torch.nn.Module.to(network, place).eval()
        limits = replace(limits, eos_token_ids=_eos_token_ids(config, network.generation_config))
        window = max_model_len or min(limits.max_positions, 8192)
        return Model(network, limits, window, chunk).check_seam()
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"cannot load {name!r}: {_first_line(error)} Give a Hugging Face id, a folder with "
            "config.json and weights, or embedded/target."
        ) from error
    except (KeyError, AttributeError, TypeError, IndexError, NotImplementedError) as error:
        raise ModelLoadError(
            f"{name!r} is of an architecture that takes no attention function or cache from "
            f"outside ({type(error).__name__}: {_first_line(error)}); it cannot be served."
        ) from error


def random_model(
    config: PretrainedConfig, *, dtype: str, device: str, max_model_len: int, chunk: int
) -> Model:
    """A model of random weights in a shape, for what depends on the shape alone, such as cost.

    Raises as `load_model` does.
    """
    place = choose_device(device)
    torch.manual_seed(0)
    with torch.device(place):
        network = AutoModelForCausalLM.from_config(
            config,
            dtype=choose_dtype(dtype, place, config),
            attn_implementation=attention.NAME,
        )
    return Model(network.eval(), read_limits(config), max_model_len, chunk).check_seam()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Whoever loads has been told what is loading; a bar would cut through their output."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def choose_device(device: str) -> torch.device:
    """The device by its torch name; `auto` is the first GPU, else the CPU.

    A GPU that is named by its number becomes the one of this process: graphs are captured there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        if place.type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r}: {_first_line(error).rstrip('.')}. Try auto or cpu."
        ) from error
    return place


def choose_dtype(dtype: str, device: torch.device, config: PretrainedConfig) -> torch.dtype:
    """The precision by its name; `auto` is the fastest good one for the device.

    A GPU runs the checkpoint's own precision. A CPU runs bfloat16 where it has matrix or vector
    units for it and float32 elsewhere, where emulated bfloat16 would be slower.
    """
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    stored = getattr(config, "dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def read_limits(config: PretrainedConfig) -> ModelLimits:
    """What the engine must know of a model, from its configuration; refuses what it cannot keep."""
    text: Any = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if unknown := kinds - _LAYER_TYPES:
        raise ModelLoadError(
            f"{text.model_type} has {', '.join(sorted(unknown))} layers, whose state cannot be "
            "rolled back to a tree's node; models of full or sliding attention can be served."
        )
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    rope_type = rope.get("rope_type", "default")
    if rope_type == "dynamic":
        raise ModelLoadError(
            "dynamic rotary scaling changes with the length of the text, which a cached tree "
            "cannot follow; choose a checkpoint with linear, yarn, llama3 or longrope scaling."
        )
    boundary = None
    if rope_type == "longrope":
        boundary = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
    return ModelLimits(
        vocab_size=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", None) or _UNBOUNDED,
        eos_token_ids=_eos_token_ids(text, None),
        window=getattr(text, "sliding_window", None) or 0,
        rope_boundary=boundary,
    )


def _eos_token_ids(*configs: object) -> tuple[int, ...]:
    """The ids that end a text; a checkpoint may name more of them for generation."""
    found: list[int] = []
    for config in configs:
        eos = getattr(config, "eos_token_id", None)
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    return tuple(dict.fromkeys(found))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
