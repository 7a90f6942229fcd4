"""Adapters: a model with one is the merged model, whatever its weights are kept in."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.api import Engine
from engine.config import EngineConfig, NgramStageConfig
from engine.errors import ModelLoadError
from engine.loading import Checkpoint
from engine.model import Model
from engine.request import Output
from engine.weights import IntegerLinear
from tests import adapters, gguf_files, packed_checkpoints
from tests.checkpoints import make_network, save_checkpoint
from tests.engine.setups import random_request, token_ids

SHAPE = {"hidden_size": 64, "intermediate_size": 128}


def loaded(folder: Path, lora: Path | None = None, dtype: str = "float32") -> Model:
    given = {"dtype": dtype, "device": "cpu", "max_model_len": 64, "chunk": 16}
    return Checkpoint.read(str(folder)).load(**given, lora=None if lora is None else str(lora))


def refusal(folder: Path, lora: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        loaded(folder, lora)
    told = str(caught.value)
    assert "\n" not in told and str(lora) in told
    return told


def in_one(name: str) -> float:
    return 1 / 2 if "v_proj" in name else 1 / 4


def stabilised(name: str) -> float:
    return 3 / 2**0.5 if "v_proj" in name else 3 / 2


def by_layer(name: str) -> float:
    return 2.0 if "q_proj" in name else 0.5 if "v_proj" in name or "1.mlp" in name else 0.25


@pytest.mark.parametrize(
    ("about", "scaling"),
    [
        ({}, in_one),
        ({"init_lora_weights": True}, in_one),
        ({"init_lora_weights": "orthogonal"}, in_one),
        ({"use_rslora": True, "lora_alpha": 3}, stabilised),
        ({"alpha_pattern": {"q_proj": 8, "layers.1.mlp.down_proj": 2}}, by_layer),
    ],
)
def test_what_an_adapter_adds_is_scaled_as_it_says(
    about: dict[str, object], scaling: Callable[[str], float], tmp_path: Path
) -> None:
    """Red when the scaling of another rank or alpha is taken, or a layer is passed over."""
    base = make_network(**SHAPE)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base, **about)
    low = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    found = loaded(tmp_path / "base", tmp_path / "lora").network.state_dict()
    for key, weight in base.state_dict().items():
        layer, expected = f"base_model.model.{key.removesuffix('.weight')}", weight
        if key.split(".")[-2] in adapters.TARGETS:
            product = low[f"{layer}.lora_B.weight"] @ low[f"{layer}.lora_A.weight"]
            expected = weight + scaling(key) * product
        assert torch.allclose(found[key], expected, atol=1e-5), key


def test_the_text_is_that_of_the_merged_checkpoint_and_speculation_does_not_change_it(
    tmp_path: Path,
) -> None:
    """Red when an engine loads the model without what was to be merged into it."""
    base = make_network(**SHAPE)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base)
    # Of the merged numbers themselves, whose last bits are those of an order of sums.
    merged = loaded(tmp_path / "base", tmp_path / "lora").network
    base.load_state_dict(merged.state_dict())
    base.save_pretrained(tmp_path / "merged")
    stages = (NgramStageConfig(),)
    plain = EngineConfig(str(tmp_path / "base"), stages, dtype="float32", threads=1)
    configs = (
        replace(plain, lora=str(tmp_path / "lora")),
        replace(plain, model=str(tmp_path / "merged")),
        plain,
    )
    engines = [Engine.load(config) for config in configs]
    rng, num_changed = random.Random(0), 0
    for _ in range(6):
        request = random_request(rng)
        texts = [
            token_ids([each for each in engine.generate(given) if isinstance(each, Output)])
            for engine in engines
            for given in (replace(request, speculation=how) for how in ("off", "always"))
        ]
        assert texts[0] == texts[1] == texts[2] == texts[3]
        num_changed += texts[0] != texts[4]
    assert num_changed


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_are_rounded_once_an_adapter_is_in_them(dtype: str, tmp_path: Path) -> None:
    """Red when an adapter is added to codes, or what is rounded is not what was merged."""
    base = make_network(**SHAPE)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base)
    merged = loaded(tmp_path / "base", tmp_path / "lora").network.model.layers[1].self_attn.q_proj
    rounded = loaded(tmp_path / "base", tmp_path / "lora", dtype).network
    layer = rounded.model.layers[1].self_attn.q_proj
    assert isinstance(layer, IntegerLinear) and (layer.minima is None) == (dtype == "int8")
    step = layer.scales.float().repeat_interleave(32, 1)
    assert ((layer.weight - merged.weight).abs() <= 0.51 * step).all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_an_adapter_of_a_files_blocks_is_merged_into_what_these_stand_for(
    kind: str, tmp_path: Path
) -> None:
    """Red when rows of a GGUF file are merged in llama.cpp's order, or rounded to 4 bits again."""
    shape = SHAPE | {"vocab_size": len(gguf_files.tokens())}
    base = make_network(**shape)
    file = gguf_files.write(tmp_path / "model.gguf", base, kind)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base)
    merged = loaded(tmp_path / "base", tmp_path / "lora").network.model.layers[1].self_attn
    found = loaded(file, tmp_path / "lora", "auto").network.model.layers[1].self_attn
    step = found.q_proj.scales.float().repeat_interleave(32, 1)
    assert found.q_proj.minima is None
    assert ((found.q_proj.weight - merged.q_proj.weight).abs() <= 0.51 * step).all()
    # What it does not change keeps the blocks that it has.
    assert torch.equal(found.k_proj.weight, merged.k_proj.weight)


def test_packed_weights_take_an_adapter(tmp_path: Path) -> None:
    """Red when who trained on a quantised model has to find the whole one."""
    base = packed_checkpoints.save(tmp_path / "base", "gptq")
    base.save_pretrained(tmp_path / "plain")
    adapters.save(tmp_path / "lora", base)
    ours, plain = (
        loaded(tmp_path / name, tmp_path / "lora").network.state_dict()
        for name in ("base", "plain")
    )
    assert all(torch.equal(ours[key], weight) for key, weight in plain.items())


def test_an_embedding_and_the_output_matrix_are_merged_where_they_are_two(tmp_path: Path) -> None:
    """Red when the factors of an embedding are multiplied the other way, or a tied one is both."""
    targets = ("embed_tokens", "lm_head")
    base = make_network(**SHAPE)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base, targets)
    low = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    path = "base_model.model.model.embed_tokens.lora_embedding_"
    added = (low[f"{path}B"] @ low[f"{path}A"]).T / 4
    found = loaded(tmp_path / "base", tmp_path / "lora").network
    expected = base.model.embed_tokens.weight + added
    assert torch.allclose(found.model.embed_tokens.weight, expected, atol=1e-5)
    assert not torch.allclose(found.lm_head.weight, base.lm_head.weight, atol=1e-2)
    with torch.no_grad():
        base.lm_head.weight[0, 0] += 1
    base.save_pretrained(tmp_path / "other")
    for dtype in ("float32", "int8"):
        with pytest.raises(ModelLoadError, match=r"was trained on another lm_head\.weight"):
            loaded(tmp_path / "other", tmp_path / "lora", dtype)
    tied = save_checkpoint(tmp_path / "tied", tie_word_embeddings=True, **SHAPE)
    assert "in two places (model.embed_tokens.weight, lm_head.weight)" in refusal(
        tied, tmp_path / "lora"
    )


def test_what_identifies_the_weights_knows_the_adapter(tmp_path: Path) -> None:
    """Red when a reply of the adapted model says that it is of its base, or of another adapter."""
    base = make_network(**SHAPE)
    base.save_pretrained(tmp_path / "base")
    adapters.save(tmp_path / "lora", base)
    # So little that no code changes.
    adapters.save(tmp_path / "faint", base, lora_alpha=1e-9)
    names = (None, tmp_path / "lora", tmp_path / "faint")
    for dtype in ("float32", "int8"):
        found = [loaded(tmp_path / "base", name, dtype).fingerprint for name in names]
        assert len({*found}) == len(names)
        assert found[1] == loaded(tmp_path / "base", tmp_path / "lora", dtype).fingerprint


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"use_dora": True}, "magnitudes of DoRA (use_dora)"),
        ({"bias": "lora_only"}, "biases (bias)"),
        ({"modules_to_save": ["lm_head"]}, "whole modules (modules_to_save)"),
        ({"fan_in_fan_out": True}, "weights that lie the other way (fan_in_fan_out)"),
        ({"peft_type": "IA3"}, "the kind IA3"),
        ({"init_lora_weights": "pissa_niter_16"}, "(init_lora_weights: pissa_niter_16)"),
        ({"init_lora_weights": "olora"}, "(init_lora_weights: olora)"),
    ],
)
def test_what_is_more_than_low_ranks_is_refused_by_its_name(
    about: dict[str, object], told: str, tmp_path: Path
) -> None:
    """Red when half of an adapter is served as the whole."""
    folder = save_checkpoint(tmp_path / "base", **SHAPE)
    adapters.save(tmp_path / "lora", make_network(**SHAPE), **about)
    message = refusal(folder, tmp_path / "lora")
    assert told in message and "merge_and_unload" in message


def test_an_adapter_of_another_model_or_none_at_all_is_told_as_such(tmp_path: Path) -> None:
    """Red when what finds no layer is left out without a word."""
    folder = save_checkpoint(tmp_path / "base", **SHAPE)
    wider = make_network(**{**SHAPE, "hidden_size": 32, "num_hidden_layers": 3})
    adapters.save(tmp_path / "lora", wider)
    assert "is of another model" in refusal(folder, tmp_path / "lora")
    assert "model.layers.{0,1,2}.self_attn.q_proj" in refusal(folder, tmp_path / "lora")
    assert "there is no adapter" in refusal(folder, tmp_path / "nothing")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(weights | {"base_model.model.lm_head.weight": torch.ones(2)}, file)
    assert "holds what is no LoRA: base_model.model.lm_head" in refusal(folder, tmp_path / "lora")
    file.write_bytes(b"nothing")
    assert "cut short" in refusal(folder, tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").unlink()
    assert "holds no adapter_config.json" in refusal(folder, tmp_path / "lora")
