"""The weights of a checkpoint by its name, wherever and however they are kept, as a network.

Files are read here, one weight after another, where that is worth something: blocks and packed
layers have codes that need no rounding, and what is to be rounded need never be whole. All else
transformers loads, which knows how checkpoints of experts are put together.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from engine.checkpoint import asked_once, check_files, check_weights, weight_files
from engine.errors import ModelLoadError
from engine.loading.adapter import Adapter
from engine.loading.filling import fill
from engine.loading.gguf_weights import GgufSource
from engine.loading.kept_codes import KeptCodes, discard_codes, find_codes, keep_codes, kept_codes
from engine.loading.network import load_network, packing, unloadable
from engine.loading.packed_formats import FORMATS
from engine.loading.precision import dtype_of_loading
from engine.loading.quiet import silence
from engine.loading.safetensors_weights import SafetensorsSource
from engine.loading.stored import ComposedError, Source
from engine.names import find_folder, find_gguf, resolve
from engine.weights import Precision

_WEIGHTS = ["model.safetensors", "model.safetensors.index.json"]
_SUFFIX = ".safetensors"
_KEPT = "codes of an earlier load"
_REMEDY = " Check the network and the name, or give a folder with config.json and weights."


class StoredWeights:
    """Those of a checkpoint; its configuration has been read. An adapter is merged into them."""

    def __init__(self, name: str, config: PretrainedConfig, adapter: Adapter | None = None) -> None:
        """Looks at what there is. Raises ModelLoadError for files that are not whole."""
        self._name, self._config, self._adapter = name, config, adapter
        self._packed: Source | None = None
        if (file := find_gguf(name)) is not None:
            self._packed = GgufSource(file, config)
            return
        check_files(name)
        method, about = packing(config)
        if method in FORMATS and self._files:
            self._packed = SafetensorsSource(self._files, FORMATS[method](about), method)

    @property
    def precision(self) -> str | None:
        """That which most of the weights are kept for; None if they are plain numbers."""
        return None if self._packed is None else self._packed.precision

    def load(
        self, precision: Precision, device: torch.device, num_engines: int, keeps_ends: bool
    ) -> tuple[PreTrainedModel, Precision]:
        """The network on its device, and its precision, with what became of the files' forms.

        Layers are rounded as they are read, where that can be, but for those of tokens where they
        are yet to change (`keeps_ends`). Raises EngineError.
        """
        given = (precision, device, num_engines)
        with suppress(ComposedError):
            if self._packed is not None:
                return self._filled(self._packed, *given, self._adapter, keeps_ends)
            if precision.is_quantised and self._files and keeps_ends:
                plain = SafetensorsSource(self._files)
                return self._filled(plain, *given, self._adapter, keeps_ends)
            if precision.is_quantised and self._files:
                return self._rounded(*given)
        dtype = dtype_of_loading(precision, self._config)
        about = (self._name, self._config, dtype, device, num_engines)
        return load_network(*about, self._adapter), precision

    def _rounded(
        self, precision: Precision, device: torch.device, num_engines: int
    ) -> tuple[PreTrainedModel, Precision]:
        """The codes of an earlier load, or those that are made now and kept for the next."""
        given = (precision, device, num_engines)
        merged = "" if self._adapter is None else self._adapter.fingerprint
        path = kept_codes(self._files, precision, merged)
        if found := find_codes(path):
            try:
                return self._filled(SafetensorsSource(found, KeptCodes(), _KEPT), *given)
            except (ModelLoadError, OSError) as error:  # as where another process discards them
                discard_codes(path, error)
        network, made = self._filled(SafetensorsSource(self._files), *given, self._adapter)
        keep_codes(path, network)
        return network, made

    def _filled(
        self,
        source: Source,
        precision: Precision,
        device: torch.device,
        num_engines: int,
        adapter: Adapter | None = None,
        keeps_ends: bool = False,
    ) -> tuple[PreTrainedModel, Precision]:
        about = (self._name, self._config, precision, device, num_engines)
        network, told = fill(source, *about, adapter, keeps_ends)
        with silence(), suppress(OSError):
            network.generation_config = GenerationConfig.from_pretrained(resolve(self._name))
        return network, precision._replace(reason=f"{precision.reason}{told}")

    @cached_property
    def _files(self) -> Sequence[Path]:
        """Those in safetensors, downloaded if need be; none if the checkpoint has others.

        Raises ModelLoadError for what cannot be had from the hub.
        """
        if hasattr(self._config, "transformers_weights"):
            return ()
        if (folder := find_folder(self._name)) is not None:
            return _in_safetensors(folder)
        try:
            with asked_once(self._name):
                return _downloaded(self._name)
        except ModelLoadError:
            raise
        except Exception as error:  # whatever a hub may answer
            raise unloadable(self._name, error, _REMEDY) from error


def _in_safetensors(folder: Path) -> Sequence[Path]:
    with suppress(ModelLoadError):
        files = weight_files(folder)
        return files if all(file.suffix == _SUFFIX for file in files) else ()
    return ()


def _downloaded(name: str) -> Sequence[Path]:
    """Those of a repository: all that its index names, whatever they are called."""
    folder = Path(snapshot_download(name, allow_patterns=_WEIGHTS))
    if files := _in_safetensors(folder):
        wanted = [file.relative_to(folder).as_posix() for file in files]
        snapshot_download(name, revision=folder.name, allow_patterns=wanted)
        for file in files:
            check_weights(file)
    return files
