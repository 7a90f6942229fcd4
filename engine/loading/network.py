"""A network with all of its weights, and no others, as transformers loads it."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from engine import attention
from engine.checkpoint import abridged, check_keys, check_numbers
from engine.errors import EngineError, ModelLoadError, first_line
from engine.loading.adapter import Adapter
from engine.loading.limits import of_text
from engine.loading.precision import num_parameters
from engine.loading.quiet import silence, unconverted
from engine.loading.stored import Numbers
from engine.memory import require
from engine.names import resolve

_DEQUANTISED = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
"""What transformers can load as plain numbers, with the weights of experts put together."""
_READ = "bfloat16, GPTQ, AWQ, compressed-tensors or FP8, or as a GGUF file"


def load_network(
    name: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    num_engines: int,
    adapter: Adapter | None = None,
) -> PreTrainedModel:
    """The network with all of its weights, and no others, on its device. Raises EngineError.

    An adapter is merged into them.
    """
    quantisation = _dequantised(name, config)
    size = num_parameters(config) * dtype.itemsize
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
        found = (loaded[1][key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        missing, left_over, mis_shaped = found
        check_found(name, network, missing, left_over, [key for key, *_ in mis_shaped])
        if quantisation:
            _cast(network, dtype)
        if adapter is not None:
            _merge(network, adapter)
        torch.nn.Module.to(network, device).eval()
    except EngineError:
        raise
    except Exception as error:  # whatever a foreign checkpoint may cause
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise unfit(name, error) from error
        if parts := unconverted(said):
            raise ModelLoadError(
                f"the weights of {name!r} are not those that its config.json describes; with "
                f"missing or mis-shaped parts: {abridged(parts)}. Download it again."
            ) from error
        raise unloadable(name, error) from error
    check_numbers(name, network.state_dict(keep_vars=True))
    return network


def packing(config: PretrainedConfig) -> tuple[str, Mapping[str, Any]]:
    """By which method a checkpoint is quantised, "" if by none, and what it says of that."""
    quantised = of_text(config, "quantization_config") or of_text(config, "compression_config")
    if not quantised:
        return "", {}
    given = quantised if isinstance(quantised, dict) else quantised.to_dict()
    return str(getattr(given.get("quant_method"), "value", given.get("quant_method"))), given


def _dequantised(name: str, config: PretrainedConfig) -> dict[str, Any]:
    """How to load a quantised checkpoint as plain numbers; refuses one that transformers cannot."""
    method, _ = packing(config)
    if method and method not in _DEQUANTISED:
        raise ModelLoadError(
            f"{name!r} is quantised ({method[:40]}) in a way that is not read here: choose the "
            f"same model in {_READ}."
        )
    return {"quantization_config": _DEQUANTISED[method](dequantize=True)} if method else {}


def _cast(network: PreTrainedModel, dtype: torch.dtype) -> None:
    """Bring to one precision what was dequantised to another; buffers keep theirs."""
    for weight in network.parameters():
        weight.data = weight.data.to(dtype)


def places(network: PreTrainedModel) -> list[list[str]]:
    """All names by which a network has each of its weights: those that are tied are one."""
    found: dict[int, list[str]] = {}
    for key, weight in network.state_dict(keep_vars=True).items():
        found.setdefault(id(weight), []).append(key)
    return [*found.values()]


def _merge(network: PreTrainedModel, adapter: Adapter) -> None:
    weights = network.state_dict(keep_vars=True)
    adapter.check({key: tuple(weight.shape) for key, weight in weights.items()})
    for keys in places(network):
        weight = weights[keys[0]]
        base = Numbers(weight.detach())
        if (merged := adapter.merged(keys, base)) is not base:
            weight.data = merged.plain().to(weight.dtype)


def check_found(
    name: str,
    network: PreTrainedModel,
    missing: Collection[str],
    left_over: Collection[str],
    mis_shaped: Collection[str],
) -> None:
    """Refuse weights that are not those of a network, by their names. Raises ModelLoadError."""
    num_layers = of_text(network.config, "num_hidden_layers") or 0
    num_ahead = of_text(network.config, "num_nextn_predict_layers") or 0
    kind, named = type(network).__name__, (network.config.architectures or [""])[0]
    idle = [*(network._keys_to_ignore_on_load_unexpected or ())]
    check_keys(
        name,
        kind if named in ("", kind) else f"{kind}, as which {named} is loaded",
        missing=missing,
        left_over=[key for key in left_over if not any(re.search(each, key) for each in idle)],
        mis_shaped=mis_shaped,
        ahead=range(num_layers, num_layers + num_ahead),
    )


def unfit(name: str, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{name!r} is of an architecture that takes no attention function or cache from outside "
        f"({type(error).__name__}: {str(error)[:200]}); it cannot be served."
    )


def unloadable(name: str, error: Exception, remedy: str = "") -> ModelLoadError:
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"{name!r} needs code of its own, which is not run here: name a checkpoint of an "
            "architecture that transformers has."
        )
    return ModelLoadError(f"cannot load {name!r}: {first_line(error)}.{remedy}")
