"""Checkpoints that others have quantised: they are the numbers that they stand for."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.api import Engine
from engine.config import EngineConfig, NgramStageConfig
from engine.errors import ModelLoadError
from engine.loading import load_model
from engine.model import Model
from engine.request import Output
from engine.weights import IntegerLinear
from tests import packed_checkpoints as packed
from tests.checkpoints import save_checkpoint
from tests.engine.setups import random_request, token_ids


def loaded(folder: Path, dtype: str = "float32") -> Model:
    return load_model(str(folder), dtype=dtype, device="cpu", max_model_len=64, chunk=16)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        loaded(folder)
    told = str(caught.value)
    assert "\n" not in told and str(folder) in told
    return told


@pytest.mark.parametrize("kind", packed.FORMATS)
def test_a_packed_layer_becomes_the_numbers_that_it_stands_for(kind: str, tmp_path: Path) -> None:
    """Red when codes are read in another order, or zeros and scales are those of another group."""
    network = packed.save(tmp_path / "model", kind)
    found = loaded(tmp_path / "model").network
    for (key, ours), (other, given) in zip(
        found.named_parameters(), network.named_parameters(), strict=True
    ):
        assert key == other
        assert torch.equal(ours, given), key


@pytest.mark.parametrize("kind", packed.FORMATS)
def test_the_text_is_that_of_the_numbers_and_speculation_does_not_change_it(
    kind: str, tmp_path: Path
) -> None:
    """Red when a packed checkpoint writes another text than it does once it is unpacked."""
    packed.save(tmp_path / "model", kind).save_pretrained(tmp_path / "plain")
    stages = (NgramStageConfig(),)
    config = EngineConfig(str(tmp_path / "model"), stages, dtype="float32", threads=1)
    ours, plain = (
        Engine.load(replace(config, model=str(tmp_path / name))) for name in ("model", "plain")
    )
    rng, different = random.Random(0), set()
    for _ in range(2):
        request = random_request(rng)
        texts = [
            token_ids([each for each in engine.generate(given) if isinstance(each, Output)])
            for engine in (ours, plain)
            for given in (replace(request, speculation=how) for how in ("off", "always"))
        ]
        assert all(text == texts[0] for text in texts)
        different.add(tuple(texts[0]))
    assert len(different) > 1


@pytest.mark.parametrize("kind", packed.FORMATS)
def test_codes_that_our_groups_hold_are_taken_as_they_are(kind: str, tmp_path: Path) -> None:
    """Red when they are rounded once more, or numbers of 8 bits pass for codes of 8."""
    network = packed.save(tmp_path / "model", kind)
    model = loaded(tmp_path / "model", "auto")
    layer, given = (each.model.layers[1].mlp.down_proj for each in (model.network, network))
    if kind in packed.PLAIN:
        assert model.precision.name == "float32"
        return
    bits = packed.KEPT.get(kind, 8)
    assert model.precision.name == ("int8" if kind in packed.IN_8_BITS else "int4")
    assert isinstance(layer, IntegerLinear)
    assert (layer.minima is not None) == (bits == 4)
    step = layer.scales.float().repeat_interleave(32, 1)
    error = (layer.weight - given.weight).abs() / step
    # Minima are rounded to half precision, and so is a group whose code of 8 bits ours lack.
    assert error.max() <= 0.51
    if kind in packed.KEPT:
        assert error[1:].max() < 0.01 and error[0, 32:].max() < 0.01
    assert model.network.lm_head.minima is None
    told = "kept" if kind in packed.KEPT else "in 8 bits"
    assert model.precision.reason.endswith(told)


def test_what_identifies_the_weights_tells_packed_ones_apart(tmp_path: Path) -> None:
    """Red when a reply of one quantisation says that it is of another. Packing is no matter."""
    kinds = ("gptq", "awq", "words of 8 bits")
    for kind in kinds:
        packed.save(tmp_path / kind, kind)
    gptq, awq, wider = (loaded(tmp_path / kind, "auto").fingerprint for kind in kinds)
    assert gptq == awq != wider


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("gptq", {"bits": 3}, "bits: 3"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format: marlin"),
        ("gptq", {"format": "marlin"}, "format: marlin"),
        ("awq", {"version": "GEMV"}, "version: gemv"),
        ("awq", {"version": None, "format": "llm-awq"}, "format: llm-awq"),
        ("blocks", {"weight_block_size": "wide"}, "weight_block_size: wide"),
        ("words of 4 bits", {"format": "nvfp4-pack-quantized"}, "format: nvfp4-pack-quantized"),
        ("bytes", {"sparsity_config": {"format": "sparse-24"}}, "sparsity_config: {'format'"),
    ],
)
def test_a_form_that_is_not_read_is_named(
    kind: str, change: dict[str, object], told: str, tmp_path: Path
) -> None:
    """Red when codes of a form that looks alike are read all the same, to no sense."""
    folder = tmp_path / "model"
    packed.save(folder, kind)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    assert f"({told}" in refusal(folder) and "GGUF" in refusal(folder)


@pytest.mark.parametrize("block", [[32, 48], [48, 16]])
def test_scales_that_are_not_those_of_blocks_are_refused(block: list[int], tmp_path: Path) -> None:
    """Red when a block of another size than the configuration says is made up."""
    folder = tmp_path / "model"
    packed.save(folder, "blocks")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = block
    (folder / "config.json").write_text(json.dumps(config))
    assert f"not those of blocks of {block[0]} by {block[1]}" in refusal(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "torchao", "hqq", "something"])
def test_a_quantisation_that_nobody_reads_is_told_with_those_that_are(
    method: str, tmp_path: Path
) -> None:
    """Red when an unknown method is ignored, as transformers does, or ends in a missing package."""
    folder = save_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    told = refusal(folder)
    assert f"quantised ({method})" in told and "bfloat16, GPTQ, AWQ, compressed-tensors" in told


def test_experts_in_mxfp4_are_the_numbers_that_they_stand_for(tmp_path: Path) -> None:
    """Red when what transformers reads of gpt-oss is not whole, or needs a package or a GPU."""
    expected = dict(packed.save_experts(tmp_path / "model").named_parameters())
    found = dict(loaded(tmp_path / "model").network.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_a_part_of_a_layer_that_is_missing_is_named(tmp_path: Path) -> None:
    """Red when a layer without its scales is an error of a dictionary's."""
    folder = tmp_path / "model"
    packed.save(folder, "awq")
    weights = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.scales"
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight has no scales" in refusal(folder)
    left = {key: weight for key, weight in weights.items() if ".1.mlp.up_proj" not in key}
    save_file(left, folder / "model.safetensors", {"format": "pt"})
    assert "missing: model.layers.1.mlp.up_proj.weight" in refusal(folder)
