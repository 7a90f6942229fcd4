"""From a name to a `Model`: checkpoints on disk or on the Hugging Face hub, dtype and device.

`embedded/...` names a part of the family that ships with the engine.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from logging import Handler, LogRecord
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from engine import attention
from engine.checkpoint import (
    abridged,
    check_configuration,
    check_files,
    check_keys,
    check_numbers,
)
from engine.errors import ConfigError, EngineError, ModelLoadError, first_line
from engine.memory import require, total_bytes
from engine.model import Model
from engine.names import resolve
from engine.scorer import ModelLimits

_UNBOUNDED = 1 << 20
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_DEQUANTISED = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
"""What transformers can load as plain numbers."""
_BYTES_IN_FLOAT32 = 6
"""What a weight takes while it is loaded and then packed for our kernels."""
_LARGEST_SHARE = 3 / 4
"""Of the memory may go to that; the rest is the cache's and everybody else's."""
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    name: str,
    *,
    dtype: str,
    device: str,
    max_model_len: int | None,
    chunk: int,
    num_engines: int = 1,
) -> Model:
    """Load a checkpoint, prove that it obeys tree masks, and give it a cache.

    `num_engines`, this one included, share the machine. Raises ModelLoadError for weights that
    cannot be found or an architecture that cannot be served, ConfigError for a device or precision
    that this machine lacks.
    """
    place = choose_device(device)
    config = read_config(name)
    check_files(name)
    with _named(name):
        limits = read_limits(config)
        wanted = choose_precision(dtype, place, config, num_engines)
        network = _load_network(name, config, wanted.dtype, place, num_engines)
        limits = replace(limits, eos_token_ids=_eos_token_ids(config, network.generation_config))
        window = max_model_len or min(limits.max_positions, 8192)
        model = Model(network, limits, window, chunk).check_seam()
    model.precision = wanted.reason
    return model


def known_positions(name: str) -> int:
    """The longest text that a checkpoint was made for, told before it is loaded.

    Raises ModelLoadError as `load_model` does.
    """
    config = read_config(name)
    with _named(name):
        return read_limits(config).max_positions


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say of which checkpoint an error is: there are several in an engine."""
    try:
        yield
    except EngineError as error:
        told = str(error)
        raise type(error)(told if repr(name) in told else f"{name!r}: {told}") from error
    except Exception as error:  # whatever a network does that was not written for our seams
        raise _unfit(name, error) from error


def _unfit(name: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{name!r} is of an architecture that takes no attention function or cache from outside "
        f"({type(error).__name__}: {str(error)[:200]}); it cannot be served."
    )


def read_config(name: str) -> PretrainedConfig:
    """The configuration of a checkpoint, whose weights are not looked at. Raises ModelLoadError."""
    check_configuration(name)
    _refuse_adapter(name)
    try:
        with silence():
            config: PretrainedConfig = AutoConfig.from_pretrained(
                resolve(name), trust_remote_code=False
            )
    except Exception as error:  # whatever a foreign configuration may cause
        remedy = (
            " Give a Hugging Face id, a folder with config.json and weights, or embedded/target."
        )
        raise _unloadable(name, error, remedy) from error
    return config


def _unloadable(name: str, error: Exception, remedy: str = "") -> ModelLoadError:
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"{name!r} needs code of its own, which is not run here: name a checkpoint of an "
            "architecture that transformers has."
        )
    return ModelLoadError(f"cannot load {name!r}: {first_line(error)}.{remedy}")


def _refuse_adapter(name: str) -> None:
    """Refuse an adapter: what stands beside it was not meant to be served without it."""
    try:
        adapter = find_adapter_config_file(resolve(name))
    except Exception:  # whatever the hub may say; it is told when the weights are asked for
        return
    if adapter is not None:
        raise ModelLoadError(
            f"{name!r} holds an adapter such as LoRA's (adapter_config.json), which is not applied "
            "here: merge it into its base model (merge_and_unload of peft), or name that model."
        )


def _load_network(
    name: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    num_engines: int,
) -> PreTrainedModel:
    """The network with all of its weights, and no others, on its device. Raises EngineError."""
    quantisation = _dequantised(name, config)
    size = _num_parameters(config) * dtype.itemsize
    remedy = "choose a smaller model, or dtype bfloat16."
    require(size, device, f"loading the weights of {name!r}", remedy, num_engines)
    try:
        with silence() as said:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                resolve(name),
                trust_remote_code=False,
                dtype=dtype,
                attn_implementation=attention.NAME,
                # So that we can say which, with all else that is wrong.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **quantisation,
            )
        network: PreTrainedModel = loaded[0]
        _check_found(name, *loaded)
        if quantisation:
            _cast(network, dtype)
        torch.nn.Module.to(network, device).eval()
    except EngineError:
        raise
    except Exception as error:  # whatever a foreign checkpoint may cause
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise _unfit(name, error) from error
        if parts := _unconverted(said):
            raise ModelLoadError(
                f"the weights of {name!r} are not those that its config.json describes; with "
                f"missing or mis-shaped parts: {abridged(parts)}. Download it again."
            ) from error
        raise _unloadable(name, error) from error
    check_numbers(name, network.state_dict(keep_vars=True))
    return network


def _dequantised(name: str, config: PretrainedConfig) -> dict[str, Any]:
    """How to load a quantised checkpoint as plain numbers; refuses one that transformers cannot."""
    quantised = _of_text(config, "quantization_config") or _of_text(config, "compression_config")
    if not quantised:
        return {}
    given = quantised if isinstance(quantised, dict) else quantised.to_dict()
    method = str(getattr(given.get("quant_method"), "value", given.get("quant_method")))
    if method not in _DEQUANTISED:
        raise ModelLoadError(
            f"{name!r} is quantised ({method[:40]}), and only weights in floating point can be "
            "served: choose the same model in bfloat16 or float16."
        )
    return {"quantization_config": _DEQUANTISED[method](dequantize=True)}


def _cast(network: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring to one precision what was dequantised to another; buffers keep theirs."""
    for weight in network.parameters():
        weight.data = weight.data.to(dtype)


def _check_found(name: str, network: PreTrainedModel, found: Mapping[str, Any]) -> None:
    """Refuse weights that transformers has made up, or left out. Raises ModelLoadError."""
    num_layers = _of_text(network.config, "num_hidden_layers") or 0
    num_ahead = _of_text(network.config, "num_nextn_predict_layers") or 0
    kind, named = type(network).__name__, (network.config.architectures or [""])[0]
    check_keys(
        name,
        kind if named in ("", kind) else f"{kind}, as which {named} is loaded",
        missing=found["missing_keys"],
        left_over=found["unexpected_keys"],
        mis_shaped=[key for key, *_ in found["mismatched_keys"]],
        ahead=range(num_layers, num_layers + num_ahead),
    )


def _of_text(config: PretrainedConfig, key: str) -> Any:
    """What a configuration says, itself or in its part for text."""
    return getattr(config, key, None) or getattr(config.get_text_config(), key, None)


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
            trust_remote_code=False,
            dtype=choose_precision(dtype, place, config).dtype,
            attn_implementation=attention.NAME,
        )
    return Model(network.eval(), read_limits(config), max_model_len, chunk).check_seam()


@contextmanager
def silence() -> Iterator[list[str]]:
    """Keep what transformers says to ourselves: who loads hears of faults in one line of ours."""
    logger, was_enabled = logging.get_logger("transformers"), logging.is_progress_bar_enabled()
    before = logger.handlers, logger.propagate
    said: list[str] = []
    logger.handlers, logger.propagate = [_Listener(said)], False
    logging.disable_progress_bar()
    try:
        yield said
    finally:
        logger.handlers, logger.propagate = before
        if was_enabled:
            logging.enable_progress_bar()


class _Listener(Handler):
    """Adds what is logged to a list."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: LogRecord) -> None:
        """Take a message."""
        self._said.append(record.getMessage())


def _unconverted(said: Sequence[str]) -> list[str]:
    """The weights that transformers could not put together, from its report: experts, for one."""
    lines = [line for report in said for line in report.splitlines()]
    return [line.split("|")[0].strip() for line in lines if "CONVERSION" in line and "|" in line]


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
        is_missing = device.startswith("cuda") and not torch.cuda.is_available()
        cause = "torch finds no GPU here" if is_missing else first_line(error)
        raise ConfigError(f"device {device!r}: {cause}. Try auto or cpu.") from error
    return place


class Precision(NamedTuple):
    """A precision of weights and passes, and why it is that: the end of a sentence on it."""

    dtype: torch.dtype
    reason: str


def choose_precision(
    dtype: str, device: torch.device, config: PretrainedConfig, num_engines: int = 1
) -> Precision:
    """The precision by its name; `auto` goes by the device, the checkpoint and the memory there is.

    A GPU runs the checkpoint's own precision. A CPU runs float32, with or without instructions for
    bfloat16: our kernels compute in float32 whatever they are given, and keep weights in bfloat16
    where that is exact, so the text is better for the same reading. Only weights of bfloat16 that
    would not fit the memory in float32 keep their own; engines of one machine have equal parts.
    """
    if dtype != "auto":
        return Precision(_DTYPES[dtype], "as asked for")
    stored = getattr(config, "dtype", None)
    if device.type != "cpu":
        own = stored if isinstance(stored, torch.dtype) else torch.float32
        return Precision(own, "that of the checkpoint")
    room = total_bytes()
    if stored == torch.bfloat16 and room is not None:
        needed = _BYTES_IN_FLOAT32 * _num_parameters(config)
        if needed > _LARGEST_SHARE * room / num_engines:
            reason = f"that of the checkpoint: float32 takes {needed / 1e9:.0f} GB while it loads"
            sharing = f" for {num_engines} engines" if num_engines > 1 else ""
            return Precision(torch.bfloat16, f"{reason}, of {room / 1e9:.0f} in all{sharing}")
    return Precision(torch.float32, "in which every CPU computes best here")


def _num_parameters(config: PretrainedConfig) -> int:
    """The weights of such a network, of which none is made; 0 where it cannot be told."""
    try:
        with torch.device("meta"), silence():
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:  # whatever a foreign configuration may cause; who loads it says so
        return 0
    return sum(weight.numel() for weight in network.parameters())


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
        eos_token_ids=_eos_token_ids(text, None),
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


def _eos_token_ids(*configs: object) -> tuple[int, ...]:
    """The ids that end a text; a checkpoint may name more of them for generation."""
    found: list[int] = []
    for config in configs:
        eos = getattr(config, "eos_token_id", None)
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    return tuple(dict.fromkeys(found))
