"""The weights of safetensors files, in plain numbers or packed, one layer after another.

A file is opened anew for each of them: what is read of a mapped file counts as memory of the
process for as long as it is open, and would be all of it by the end.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from engine.errors import ModelLoadError
from engine.loading.packed_formats import OF_INPUTS, Format, Layer
from engine.loading.stored import NUMBERS, ComposedError, Numbers, Rows, Source, StoredWeight

_WEIGHT = "weight"


class SafetensorsSource(Source):
    """What some files hold; layers that are packed, in one format."""

    def __init__(
        self, files: Sequence[Path], packing: Format | None = None, kind: str = ""
    ) -> None:
        """`kind` is what the format is called. Raises ModelLoadError for what it does not know."""
        super().__init__(_weights(files, packing, kind))

    def keys(self, network: PreTrainedModel) -> Mapping[str, str | None]:
        """By transformers' own rules, which know the names of older checkpoints.

        Raises ComposedError where these put several weights together.
        """
        rules = get_model_conversion_mapping(network)
        renamings = [each for each in rules if isinstance(each, WeightRenaming)]
        converters = [each for each in rules if isinstance(each, WeightConverter)]
        known, prefix = network.state_dict(), network.base_model_prefix
        found: dict[str, str | None] = {}
        for each in self.weights:
            key, converter = rename_source_key(each.name, renamings, converters, prefix, known)
            if converter is not None:
                raise ComposedError(f"{each.name} is a part of {key}")
            if key not in known:  # it may have had its name already
                key, _ = rename_source_key(each.name, [], [], prefix, known)
            found[each.name] = key if key in known else None
        return found


class _Layer(Layer):
    """Tensors of one file or several."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kinds: dict[str, str] = {}
        self._places: dict[str, tuple[Path, str]] = {}

    @property
    def leaves(self) -> Collection[str]:
        """The last parts of their names."""
        return self._shapes.keys()

    def add(self, leaf: str, place: tuple[Path, str], shape: tuple[int, ...], kind: str) -> None:
        """Another one, at its place."""
        self._shapes[leaf], self._kinds[leaf], self._places[leaf] = shape, kind, place

    def shape(self, leaf: str) -> tuple[int, ...]:
        """That of one of them. Raises ModelLoadError if there is none."""
        self._check(leaf)
        return self._shapes[leaf]

    def kind(self, leaf: str) -> str:
        """What its numbers are."""
        self._check(leaf)
        return self._kinds[leaf]

    def tensor(self, leaf: str) -> Tensor:
        """A copy of it, with which nothing of the file stays in memory."""
        self._check(leaf)
        file, key = self._places[leaf]
        with safe_open(file, "pt") as opened:
            found: Tensor = opened.get_tensor(key).clone()
        return found

    def _check(self, leaf: str) -> None:
        if leaf not in self._shapes:
            raise ModelLoadError(f"{self.name} has no {leaf} in the files: download them again.")


def _weights(files: Sequence[Path], packing: Format | None, kind: str) -> list[StoredWeight]:
    layers: dict[str, _Layer] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                path, _, leaf = key.rpartition(".")
                is_part = packing is not None and leaf in packing.leaves | OF_INPUTS
                name = f"{path}.{_WEIGHT}" if is_part else key
                about = opened.get_slice(key)
                place, shape = (file, key), tuple(about.get_shape())
                layer = layers.setdefault(name, _Layer(name))
                layer.add(leaf if is_part else _WEIGHT, place, shape, about.get_dtype())
    return [_stored(layer, packing, kind) for layer in layers.values()]


def _stored(layer: _Layer, packing: Format | None, kind: str) -> StoredWeight:
    if packing is None or OF_INPUTS | {_WEIGHT} >= set(layer.leaves):
        number, shape = layer.kind(_WEIGHT), layer.shape(_WEIGHT)
        return StoredWeight(layer.name, number, NUMBERS, shape, partial(_numbers, layer))
    bits, shape = packing.bits(layer), packing.shape(layer)
    return StoredWeight(layer.name, kind, bits, shape, partial(packing.rows, layer))


def _numbers(layer: _Layer) -> Rows:
    return Numbers(layer.tensor(_WEIGHT))
