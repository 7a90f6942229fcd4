"""A LoRA adapter in PEFT's layout, merged into the weights of a model while these are read.

A layer W becomes W + scaling * B A, of the adapter's A (rank, in) and B (out, rank), as Hu et al.,
"LoRA: Low-Rank Adaptation of Large Language Models" (2021), have it; the scaling is alpha / rank,
or alpha / sqrt(rank) where ranks are stabilised (Kalajdzievski 2023).
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from engine.checkpoint import abridged, check_weights, read_json
from engine.errors import ModelLoadError, first_line
from engine.hub import only_if_reachable
from engine.loading.stored import Rows

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PARTS = re.compile(r"(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.weight)?")
_BASE = re.compile(r"(?P<layer>.+)\.base_layer\.weight")
"""What an embedding was before: peft keeps that beside the factors (`save_embedding_layers`)."""
_CHANGING = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""How an adapter may begin that takes from its base what it begins with (`init_lora_weights`)."""
_REMEDY = "merge it into its base model (merge_and_unload of peft), and name the folder of that"


class _Low(NamedTuple):
    """What is added to a weight (out, in), in two factors: left (out, rank), right (rank, in)."""

    left: Tensor
    right: Tensor
    scaling: float

    def of(self, rows: slice) -> Tensor:
        """What is added to some rows."""
        return self.scaling * (self.left[rows] @ self.right)


class _Merged(Rows):
    """A weight of the base model with what an adapter adds: plain numbers, whatever it was."""

    def __init__(self, base: Rows, low: _Low) -> None:
        self._base, self._low = base, low

    def plain(self, rows: slice = slice(None)) -> Tensor:
        """Both together, in float32."""
        return self._base.plain(rows).float() + self._low.of(rows)


class Adapter:
    """What is added to which weights of a model."""

    def __init__(self, name: str, lows: Mapping[str, _Low], bases: Mapping[str, Tensor]) -> None:
        """Adds `lows` to layers, of which some must have the weights `bases`."""
        self.name = name
        self._lows = {f"{layer}.weight": low for layer, low in lows.items()}
        self._bases = {f"{layer}.weight": base for layer, base in bases.items()}

    @classmethod
    def read(cls, name: str) -> Self:
        """That of a folder, or of an id of the hub.

        Raises ModelLoadError for one that is not there, damaged, or more than LoRA.
        """
        folder = _folder(name)
        about = read_json(folder / _CONFIG)
        _check(name, about)
        check_weights(folder / _WEIGHTS)
        tensors = load_file(folder / _WEIGHTS)
        named = {key: _BASE.fullmatch(key.removeprefix(_PREFIX)) for key in tensors}
        bases = {found["layer"]: tensors.pop(key) for key, found in named.items() if found}
        return cls(name, _lows(name, about, tensors), bases)

    @property
    def fingerprint(self) -> str:
        """A digest of all that it adds."""
        digest = hashlib.sha256()
        for key, low in sorted(self._lows.items()):
            digest.update(f"{key} {low.scaling}".encode())
            for part in (low.left, low.right):
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def merged(self, keys: Collection[str], rows: Rows) -> Rows:
        """A weight that the network has by these names, with what is added to it, if anything is.

        Raises ModelLoadError for one that has several, and one that is not what it was trained on.
        """
        ours = [key for key in keys if key in self._lows]
        if ours and len(keys) > 1:
            raise ModelLoadError(
                f"the adapter {self.name!r} changes {ours[0]}, which this model has in two places "
                f"({', '.join(keys)}): {_REMEDY}."
            )
        if other := [key for key in keys if key in self._bases and self._is_other(key, rows)]:
            raise ModelLoadError(
                f"the adapter {self.name!r} was trained on another {other[0]}, which it holds, "
                f"than this model's: {_REMEDY}."
            )
        return _Merged(rows, self._lows[ours[0]]) if ours else rows

    def _is_other(self, key: str, rows: Rows) -> bool:
        """Whether a weight is not what the adapter was trained on, in the precision of either."""
        ours, base = rows.plain(), self._bases[key]
        is_same = torch.equal(ours.to(base.dtype), base) or torch.equal(base.to(ours.dtype), ours)
        return not is_same

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ModelLoadError unless a model has all that it changes, in its shapes."""
        ours: list[tuple[str, tuple[int, ...]]] = [
            (key, (len(low.left), low.right.shape[1])) for key, low in self._lows.items()
        ]
        ours += [(key, tuple(base.shape)) for key, base in self._bases.items()]
        if strange := [key for key, shape in ours if shapes.get(key) != shape]:
            raise ModelLoadError(
                f"the adapter {self.name!r} is of another model: this one has no such weights as "
                f"it changes ({abridged(strange)}). Name the model that it was trained on."
            )


def _folder(name: str) -> Path:
    if (folder := Path(name)).is_dir():
        return folder
    try:
        with only_if_reachable():
            return Path(snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS]))
    except Exception as error:  # whatever a hub may answer, or a name that is none
        raise ModelLoadError(
            f"there is no adapter {name!r} ({first_line(error)}): name a folder with {_CONFIG} and "
            f"{_WEIGHTS}, or a Hugging Face id."
        ) from error


def _check(name: str, about: Mapping[str, Any]) -> None:
    """Refuse what is more, or other, than low ranks that are added. Raises ModelLoadError."""
    begun = str(about.get("init_lora_weights")).lower()
    faults = {
        f"the kind {about.get('peft_type')}": about.get("peft_type") != "LORA",
        f"a changed base (init_lora_weights: {begun})": begun.startswith(_CHANGING),
        "magnitudes of DoRA (use_dora)": about.get("use_dora"),
        "biases (bias)": about.get("bias", "none") != "none" or about.get("lora_bias"),
        "whole modules (modules_to_save)": about.get("modules_to_save"),
        "new tokens (trainable_token_indices)": about.get("trainable_token_indices"),
        "weights that lie the other way (fan_in_fan_out)": about.get("fan_in_fan_out"),
        "a call of its own (alora_invocation_tokens)": about.get("alora_invocation_tokens"),
    }
    if found := [what for what, is_there in faults.items() if is_there]:
        raise ModelLoadError(
            f"the adapter {name!r} has {' and '.join(found)}, which cannot be merged here: "
            f"{_REMEDY}."
        )


def _lows(name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, _Low]:
    parts: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        found = _PARTS.fullmatch(key.removeprefix(_PREFIX))
        if found is None:
            strange.append(key)
            continue
        # The factors of an embedding stand the other way.
        part = {"A": "B", "B": "A"}[found["part"]] if found["embedding"] else found["part"]
        factor = tensor.float().T if found["embedding"] else tensor.float()
        parts.setdefault(found["layer"], {})[part] = factor
    strange += [layer for layer, pair in parts.items() if pair.keys() != {"A", "B"}]
    if strange or not parts:
        what = abridged(strange) or "nothing"
        raise ModelLoadError(f"the adapter {name!r} holds what is no LoRA: {what}; {_REMEDY}.")
    return {
        layer: _Low(pair["B"], pair["A"], _scaling(layer, about, len(pair["A"])))
        for layer, pair in parts.items()
    }


def _scaling(layer: str, about: Mapping[str, Any], rank: int) -> float:
    """Which of the patterns of layers has this one its alpha from: as peft, by the end of names."""
    patterns: Mapping[str, float] = about.get("alpha_pattern") or {}
    fitting = (
        value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)
    )
    alpha = float(next(fitting, about.get("lora_alpha") or 8))
    return alpha / (math.sqrt(rank) if about.get("use_rslora") else rank)
