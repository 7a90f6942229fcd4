"""EAGLE-3 heads on disk or on the Hugging Face hub: recognised, loaded for a target, written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from engine.checkpoint import (
    PADDING,
    asked_once,
    check_keys,
    check_numbers,
    check_weights,
)
from engine.drafting.head import HeadModel
from engine.drafting.head_network import HeadNetwork, HeadShape, is_head
from engine.errors import ConfigError, ModelLoadError, first_line
from engine.loading import unpack
from engine.model import Model
from engine.names import find_folder, resolve
from engine.weights import BITS, Precision, quantise

_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin")
# Speculators numbers the one layer and names the table of ids in full.
_RENAMED = {"layers.0.": "midlayer.", "draft_id_to_target_id": "d2t"}


def names_head(name: str) -> bool:
    """Whether a Hugging Face id or a folder holds a head, by its `config.json`.

    False if there is none: what is loaded in its place then says what is missing.
    """
    try:
        return is_head(read_config(name))
    except Exception:  # whatever a foreign configuration may cause
        return False


def load_head(name: str, target: Model, chunk: int, dtype: str = "auto") -> HeadModel:
    """Load a head for this target. Raises ModelLoadError if it cannot be found or does not fit.

    What a checkpoint leaves out, the embedding or the output matrix, it shares with its target.
    Its numbers are the target's, and its weights are rounded if `dtype` is int8 or int4; another
    precision raises ConfigError.
    """
    _check_precision(name, target, dtype)
    try:
        config = read_config(name)
        weights = _read_weights(name)
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a foreign file may cause
        raise ModelLoadError(
            f"cannot load the head {name!r}: {first_line(error)}. Give a Hugging Face "
            "id, a folder with config.json and weights, or embedded/head."
        ) from error
    if not is_head(config):
        raise ModelLoadError(
            f"{name!r} is not an EAGLE-3 head: its config.json names none of that layout's "
            "architectures. If it is a draft model, use the stage kind `model`."
        )
    network = build_head(name, config, weights, target)
    network.requires_grad_(False)
    if dtype in BITS:
        quantise(network, dtype)
    head = HeadModel(network.eval(), target, chunk)
    if dtype in BITS:
        head.precision = Precision(dtype, head.dtype)
    return head


def _check_precision(name: str, target: Model, dtype: str) -> None:
    own = str(target.dtype).removeprefix("torch.")
    is_roundable = target.device.type in ("cpu", "cuda") and own == "float32"
    if dtype not in ("auto", own) and not (dtype in BITS and is_roundable):
        raise ConfigError(
            f"the head {name!r} reads its target's states and computes in their {own}: leave its "
            "dtype out" + (f", or set it to {' or '.join(BITS)}." if is_roundable else "."),
            "dtype",
        )


def build_head(
    name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], target: Model
) -> HeadNetwork:
    """A network on the target's device and in its precision; raises ModelLoadError."""
    num_layers, hidden_size = target.num_layers, target.hidden_size
    try:
        shape = HeadShape.read(config, num_layers, hidden_size)
        network = HeadNetwork(shape)
    except Exception as error:  # whatever a foreign configuration may cause
        raise ModelLoadError(
            f"the config.json of the head {name!r} is not that of an EAGLE-3 head: "
            f"{first_line(error)}."
        ) from error
    width = weights["fc.weight"].shape[-1] if "fc.weight" in weights else 0
    if width != len(shape.layers) * hidden_size or not set(shape.layers) <= {
        *range(num_layers + 1)
    }:
        raise ModelLoadError(
            f"the head {name!r} reads {width} units of the layers {shape.layers}, and the target "
            f"has {num_layers} layers of {hidden_size}: it belongs to another model."
        )
    given = {key: tensor for key, tensor in weights.items() if key != "t2d"}
    _check_ids(name, given, shape, target)
    parts = {**_shared_with(target, given, shape), **given}
    _check_parts(name, network, parts)
    network.load_state_dict(parts, strict=False)  # but for what no layer reads
    check_numbers(name, network.state_dict(keep_vars=True))
    _pad_vocabulary(name, network, target.limits.vocab_size)
    network.to(target.device, target.dtype)
    # Angles keep their own precision, as in every model of transformers.
    network.rotary = LlamaRotaryEmbedding(shape.layer).to(target.device)
    return network


def save_head(network: HeadNetwork, folder: Path, is_sharing: bool) -> None:
    """Write a head in EAGLE-3's layout, in bfloat16; `is_sharing` leaves the target's parts out."""
    shape = network.shape
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        key: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for key, tensor in network.state_dict().items()
        if not (is_sharing and key in {"embed_tokens.weight", "lm_head.weight"})
    }
    num_tokens = shape.layer.vocab_size
    is_draftable = torch.zeros(num_tokens, dtype=torch.bool)
    is_draftable[network.draft_ids.cpu()] = True
    save_file({**own, "t2d": is_draftable}, folder / "model.safetensors", {"format": "pt"})
    config = {
        **shape.layer.to_diff_dict(),
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "vocab_size": num_tokens,
        "draft_vocab_size": shape.draft_vocab_size,
        "target_hidden_size": shape.target_hidden_size,
        "eagle_aux_hidden_state_layer_ids": list(shape.layers),
        "norm_before_residual": shape.is_norm_before_residual,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")


def _pad_vocabulary(name: str, network: HeadNetwork, size: int) -> None:
    """Give the ids of a target that is padded further an embedding. Raises ModelLoadError."""
    known = network.embed_tokens.weight.detach()
    if size > (1 + PADDING) * len(known):
        raise ModelLoadError(
            f"the head {name!r} knows {len(known)} tokens and the target {size}: it belongs to "
            "another tokenizer."
        )
    if size > len(known):
        padded = pad(known, (0, 0, 0, size - len(known)))
        network.embed_tokens.weight = nn.Parameter(padded, requires_grad=False)
        network.embed_tokens.num_embeddings = size
        network.shape.layer.vocab_size = size


def _check_ids(name: str, given: Mapping[str, Tensor], shape: HeadShape, target: Model) -> None:
    """Refuse a draft vocabulary that is not one of the target's tokens. Raises ModelLoadError."""
    if (offsets := given.get("d2t")) is None:
        return
    vocab_size = target.limits.vocab_size
    ids = set((offsets.flatten().cpu().long() + torch.arange(offsets.numel())).tolist())
    if not ids <= set(range(vocab_size)):
        raise ModelLoadError(
            f"the d2t of the head {name!r} names token ids from {min(ids)} to {max(ids)}, and the "
            f"target has {vocab_size}: it belongs to another tokenizer, or is no table of offsets."
        )
    if not len(ids) == offsets.numel() == shape.draft_vocab_size:
        raise ModelLoadError(
            f"the d2t of the head {name!r} has {offsets.numel()} entries for {len(ids)} token ids, "
            f"and its config.json a draft vocabulary of {shape.draft_vocab_size}: it is damaged."
        )


def _check_parts(name: str, network: HeadNetwork, parts: Mapping[str, Tensor]) -> None:
    """Refuse parts that are not those of the network. Raises ModelLoadError."""
    expected = network.state_dict()
    check_keys(
        name,
        "head in EAGLE-3's layout",
        missing=expected.keys() - parts.keys(),
        left_over=parts.keys() - expected.keys(),
        mis_shaped=[
            key for key in expected.keys() & parts.keys() if expected[key].shape != parts[key].shape
        ],
    )


def read_config(name: str) -> dict[str, Any]:
    """The content of a `config.json`; raises whatever is wrong with it."""
    find_folder(name)
    unpack(name)
    with asked_once(name):
        config, _ = PretrainedConfig.get_config_dict(resolve(name))
    return dict(config)


def _read_weights(name: str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, by the names of EAGLE's own layout."""
    folder = Path(resolve(name))
    if not folder.is_dir():
        with asked_once(name):
            folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        check_weights(file)
        weights.update(load_file(file))
    if not weights:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            check_weights(file)
            weights.update(torch.load(file, map_location="cpu", weights_only=True))
    if not weights:
        raise OSError(f"no *.safetensors and no pytorch_model*.bin in {folder}.")
    return {_rename(key): tensor for key, tensor in weights.items()}


def _rename(key: str) -> str:
    for old, new in _RENAMED.items():
        key = key.replace(old, new)
    return key.removeprefix("model.")


def _shared_with(target: Model, given: Mapping[str, Tensor], shape: HeadShape) -> dict[str, Tensor]:
    """The parts that a checkpoint leaves out, from the target; those of `given` win over them."""
    is_whole = shape.draft_vocab_size >= shape.layer.vocab_size
    same_ids = torch.zeros(shape.draft_vocab_size, dtype=torch.long)
    parts = {"d2t": same_ids} if is_whole else {}
    if shape.layer.hidden_size != target.hidden_size:
        return parts
    embedding, output = target.embedding, target.output_matrix
    ids = given.get("d2t", same_ids).cpu() + torch.arange(shape.draft_vocab_size)
    if int(ids.max()) < len(output):
        parts["lm_head.weight"] = output[ids.to(output.device)]
    parts["embed_tokens.weight"] = embedding[: shape.layer.vocab_size]
    return parts
