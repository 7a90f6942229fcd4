"""Files that llama.cpp has quantised itself, where it is installed: it is no dependency."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from engine.loading import load_model
from engine.weights import IntegerLinear
from tests import gguf_files
from tests.checkpoints import make_network

llama_cpp = pytest.importorskip("llama_cpp")

SHAPE = {
    "vocab_size": len(gguf_files.tokens()),
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
}
TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3}
"""By the numbers that `llama_model_quantize` has for them."""
WITHIN = {"Q8_0": 0.0, "Q4_0": 0.0, "Q4_1": 0.0, "Q4_K": 0.02}
"""Of a step, by how much a weight may be another once it is in our codes; others are rounded."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def quantised(folder: Path, network: PreTrainedModel, kind: str) -> Path:
    """A file that llama.cpp has made of a network in float32."""
    whole, file = gguf_files.write(folder / "whole.gguf", network), folder / f"{kind}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    assert llama_cpp.llama_model_quantize(str(whole).encode(), str(file).encode(), params) == 0
    return file


@pytest.mark.parametrize("kind", TYPES)
def test_its_blocks_are_the_numbers_that_gguf_says(kind: str, tmp_path: Path) -> None:
    """Red when scales of blocks that somebody has really rounded are put together otherwise."""
    file = quantised(tmp_path, make_network(**SHAPE), kind)
    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    model = load_model(str(file), dtype="auto", device="cpu", max_model_len=64, chunk=16)
    kinds = set()
    for number, layer in enumerate(model.network.model.layers):
        for name, ours in (("ffn_up", layer.mlp.up_proj), ("ffn_down", layer.mlp.down_proj)):
            found = stored[f"blk.{number}.{name}.weight"]
            expected = gguf.dequantize(found.data, found.tensor_type)
            assert isinstance(ours, IntegerLinear)
            step = ours.scales.float().repeat_interleave(32, 1)
            error = (ours.weight - torch.from_numpy(np.array(expected))).abs() / step
            assert error.max() <= WITHIN.get(found.tensor_type.name, 0.51)
            kinds.add(found.tensor_type.name)
    assert kind.partition("_M")[0] in kinds
