"""A network with the weights of a GGUF file, which are read one after another.

Of each no more than its bytes and what becomes of them is in memory at a time.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from engine import attention
from engine.checkpoint import check_keys, check_numbers
from engine.loading.gguf_blocks import codes_of, plain, precision_of
from engine.loading.gguf_file import FACTORS, StoredTensor
from engine.loading.precision import num_parameters
from engine.loading.quiet import silence
from engine.loading.unpacking import contents
from engine.memory import require
from engine.weights import BITS, IntegerEmbedding, IntegerLinear, Precision, ends_of


def load_gguf(
    name: str,
    file: Path,
    config: PretrainedConfig,
    precision: Precision,
    device: torch.device,
    num_engines: int,
    keeps_ends: bool,
) -> PreTrainedModel:
    """The network with all weights of its file, and no others. Raises EngineError.

    Layers are rounded as they are read, if the precision is one that rounds, except for those of
    tokens where they are yet to change (`keeps_ends`).
    """
    bits = BITS.get(precision.name, 8 * precision.dtype.itemsize)
    size = num_parameters(config) * bits // 8
    remedy = "choose a smaller model, or dtype int4."
    require(size, device, f"loading the weights of {name!r}", remedy, num_engines)
    # Made without numbers, of which no page is touched before a tensor takes its place.
    with silence(), no_init_weights():
        network: PreTrainedModel = AutoModelForCausalLM.from_config(
            deepcopy(config),  # which a network that grows changes
            trust_remote_code=False,
            dtype=precision.dtype,
            attn_implementation=attention.NAME,
        )
    network.tie_weights()
    network.requires_grad_(False)
    _Reader(network, file, precision, keeps_ends).read(name)
    nn.Module.to(network, device).eval()
    # Scales are buffers, and persistent in no network of ours.
    check_numbers(name, network.state_dict(keep_vars=True) | dict(network.named_buffers()))
    return network


class _Reader:
    """Fills a network from a file."""

    def __init__(
        self, network: PreTrainedModel, file: Path, precision: Precision, keeps_ends: bool
    ) -> None:
        self._ends = ends_of(network)
        self._kept = self._ends if keeps_ends else ()
        table = contents(file)
        self._tensors = table.tensors
        # What a file has in more bits than most of it was not worth fewer to who made it.
        self._is_own = precision_of(table.num_weights()) == precision.name
        self._network, self._precision = network, precision
        processor: Any = TENSOR_PROCESSORS.get(table.architecture, TensorProcessor)
        self._processor = processor(config=network.config.to_dict())
        self._names: dict[str, str] = get_gguf_hf_weights_map(
            network, self._processor, model_type=table.architecture
        )
        self._bytes = np.memmap(file, mode="r")

    def read(self, name: str) -> None:
        """Give every weight its tensor. Raises ModelLoadError if one is missing or left over."""
        missing = {key: weight.shape for key, weight in self._network.named_parameters()}
        places = self._places()
        left_over, mis_shaped = [], []
        for tensor in self._tensors:
            key = self._names.get(tensor.name, tensor.name)
            shape = missing.pop(key, None)
            if shape is None and tensor.name != FACTORS:
                left_over.append(tensor.name)
            elif shape is not None and tuple(shape) != tensor.shape:
                mis_shaped.append(key)
            elif shape is not None:
                self._take(tensor, places[key])
        kind = type(self._network).__name__
        check_keys(name, kind, missing, left_over, mis_shaped)

    def _places(self) -> dict[str, list[str]]:
        """By the name of a weight, all by which the network has it: those that are tied are one."""
        places: dict[int, list[str]] = {}
        for key, weight in self._network.named_parameters(remove_duplicate=False):
            places.setdefault(id(weight), []).append(key)
        return {keys[0]: keys for keys in places.values()}

    def _take(self, tensor: StoredTensor, keys: list[str]) -> None:
        """Put a tensor where it belongs, in every such place."""
        stored = self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]
        rows = stored.reshape(*tensor.shape[:-1], -1)
        if len(tensor.shape) > 1:
            rows = self._as_loaded(tensor, rows)
        for key in keys:
            path, _, leaf = key.rpartition(".")
            module = self._network.get_submodule(path)
            if leaf == "weight" and self._is_rounded(module):
                self._network.set_submodule(path, self._rounded(module, rows, tensor.kind))
            else:
                values = plain(rows, tensor.kind)
                if values.dim() == 1:
                    values = torch.from_numpy(self._as_loaded(tensor, values.numpy()))
                getattr(module, leaf).data = values.to(self._precision.dtype)

    def _is_rounded(self, layer: nn.Module) -> bool:
        is_kind = type(layer) in (nn.Linear, nn.Embedding)
        return self._precision.is_quantised and is_kind and layer not in self._kept

    def _rounded(self, layer: nn.Module, rows: NDArray[Any], kind: str) -> nn.Module:
        keeps_bits = self._is_own or layer in self._ends
        codes = codes_of(rows, kind, self._precision.name, keeps_bits)
        if isinstance(layer, nn.Linear):
            return IntegerLinear(codes, layer.bias, codes.values.dtype)
        return IntegerEmbedding(codes)

    def _as_loaded(self, tensor: StoredTensor, values: NDArray[Any]) -> NDArray[Any]:
        """What llama.cpp changed as it wrote the file, undone: the order of rows, a norm's one."""
        loaded: NDArray[Any] = self._processor.process(values, name=tensor.name).weights
        return np.ascontiguousarray(loaded)
