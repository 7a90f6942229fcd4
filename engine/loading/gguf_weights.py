"""The weights of a GGUF file, by the names and in the order of rows that transformers has."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from engine.loading.gguf_blocks import Blocks, bits_of
from engine.loading.gguf_file import FACTORS, StoredTensor
from engine.loading.stored import Numbers, Rows, Source, StoredWeight
from engine.loading.unpacking import contents


class GgufSource(Source):
    """What a GGUF file that has been unpacked holds."""

    def __init__(self, file: Path, config: PretrainedConfig) -> None:
        table = contents(file)
        self._file, self._architecture = file, table.architecture
        processor: Any = TENSOR_PROCESSORS.get(table.architecture, TensorProcessor)
        self._processor = processor(config=config.to_dict())
        # What divides the frequencies of a rope is in the configuration already.
        tensors = [each for each in table.tensors if each.name != FACTORS]
        super().__init__([self._stored(each) for each in tensors])

    def keys(self, network: PreTrainedModel) -> Mapping[str, str | None]:
        """As transformers maps them."""
        names: dict[str, str] = get_gguf_hf_weights_map(
            network, self._processor, model_type=self._architecture
        )
        return {each.name: names.get(each.name) for each in self.weights}

    def _stored(self, tensor: StoredTensor) -> StoredWeight:
        read = partial(self._read, tensor)
        return StoredWeight(tensor.name, tensor.kind, bits_of(tensor.kind), tensor.shape, read)

    def _read(self, tensor: StoredTensor) -> Rows:
        # No mapping of the file, of which all would count as memory by the end.
        stored = np.fromfile(self._file, np.uint8, tensor.num_bytes, offset=tensor.offset)
        rows = stored.reshape(*tensor.shape[:-1], -1)
        if len(tensor.shape) > 1:
            return Blocks(self._as_loaded(tensor, rows), tensor.kind)
        values = Blocks(rows, tensor.kind).plain().numpy()
        return Numbers(torch.from_numpy(self._as_loaded(tensor, values)))

    def _as_loaded(self, tensor: StoredTensor, values: NDArray[Any]) -> NDArray[Any]:
        """What llama.cpp changed as it wrote the file, undone: the order of rows, a norm's one."""
        loaded: NDArray[Any] = self._processor.process(values, name=tensor.name).weights
        return np.ascontiguousarray(loaded)
