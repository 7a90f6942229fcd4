"""A grown checkpoint answers as the original does, and is as large as it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.benchmark.grown_checkpoint import SIZES, LlamaShape, grow_checkpoint, grown
from engine.errors import ConfigError
from tests.checkpoints import VOCAB_SIZE, save_checkpoint

SMALL = LlamaShape(32, 48, 2, 4, 2)
EMBEDDED = LlamaShape(384, 1280, 6, 6, 2)
TEXTS = torch.randint(VOCAB_SIZE, (4, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads to a key-value head; norms that are not all ones."""
    folder = tmp_path_factory.mktemp("small")
    save_checkpoint(folder, tie_word_embeddings=request.param)
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    network.save_pretrained(folder)
    return folder


def logits_of(folder: Path, texts: Tensor = TEXTS) -> Tensor:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits: Tensor = network(input_ids=texts).logits
    return logits


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        replace(SMALL, hidden_size=72),
        replace(SMALL, intermediate_size=80),
        replace(SMALL, num_hidden_layers=5),
        replace(SMALL, num_attention_heads=16),
        replace(SMALL, num_attention_heads=8, num_key_value_heads=4),
        replace(SMALL, num_key_value_heads=4),
        LlamaShape(72, 112, 4, 9, 9),
    ],
    ids=["nothing", "channels", "units", "layers", "heads", "both heads", "kv heads", "all"],
)
def test_growth_leaves_the_logits_as_they_were(
    small: Path, tmp_path: Path, shape: LlamaShape
) -> None:
    """Red when anything new writes, a norm is not rescaled, or a head reads another's keys."""
    grow_checkpoint(small, tmp_path, shape)
    before, after = logits_of(small), logits_of(tmp_path)
    assert before.std() > 0.5
    assert (after - before).abs().max() < 1e-4


def test_what_is_added_is_random_and_takes_part(small: Path, tmp_path: Path) -> None:
    """Red when new weights are left zero where nothing asks for it, so that they cost less."""
    shape = LlamaShape(64, 96, 3, 8, 8)
    grow_checkpoint(small, tmp_path, shape)
    network = AutoModelForCausalLM.from_pretrained(tmp_path, output_hidden_states=True)
    for layer in network.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for reader in (attention.q_proj, attention.k_proj, mlp.gate_proj, mlp.up_proj):
            assert (reader.weight != 0).all()
    assert not network.model.layers[2].mlp.down_proj.weight.any()
    with torch.inference_mode():
        states = network(input_ids=TEXTS).hidden_states
    assert all(not state[..., 32:].any() for state in states)


def test_a_checkpoint_of_bfloat16_grows_in_its_own_precision(small: Path, tmp_path: Path) -> None:
    """Red when a tensor is left in float32, or rounding changes more than its own precision."""
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16).save_pretrained(source)
    folder = tmp_path / "grown"
    folder.mkdir()
    grow_checkpoint(source, folder, LlamaShape(72, 112, 4, 9, 9), dtype=torch.bfloat16)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    before, after = logits_of(source), logits_of(folder)
    assert 0 < (after - before).abs().max() < 0.05 * before.abs().max()


@pytest.mark.parametrize(("size", "shape"), SIZES.items())
def test_the_sizes_are_what_they_are_called(size: int, shape: LlamaShape) -> None:
    assert shape.num_parameters(8192) == pytest.approx(1e6 * size, rel=0.05)
    assert shape.hidden_size == 64 * shape.num_attention_heads


def test_the_parameters_are_counted_as_they_are_written(tmp_path: Path) -> None:
    """Red when the count, on which a floor stands, forgets a tensor."""
    small = save_checkpoint(tmp_path / "small", tie_word_embeddings=True)
    shape = LlamaShape(48, 64, 3, 6, 3)
    with grown(str(small), shape) as folder:
        network = AutoModelForCausalLM.from_pretrained(folder)
        assert LlamaShape.of(json.loads(Path(folder, "config.json").read_text())) == shape
    assert not Path(folder).exists()
    assert sum(weight.numel() for weight in network.parameters()) == shape.num_parameters(64, 8)


def test_no_shape_is_the_model_itself() -> None:
    with grown("embedded/target", None) as name:
        assert name == "embedded/target"


def test_the_embedded_target_grows(tmp_path: Path) -> None:
    """The tokenizer comes along, and the logits hold with the weights that ship."""
    with grown("embedded/target", SIZES[30]) as folder:
        assert Path(folder, "tokenizer.json").exists()
        after = logits_of(Path(folder))
    with grown("embedded/target", EMBEDDED) as folder:
        before = logits_of(Path(folder))
    assert (after - before).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        (replace(SMALL, hidden_size=16), "hidden_size is 32: it cannot shrink to 16"),
        (replace(SMALL, num_attention_heads=5), "cannot share 2 key-value heads evenly"),
        (replace(SMALL, num_attention_heads=4, num_key_value_heads=3), "evenly"),
    ],
)
def test_a_shape_that_does_not_hold_the_old_one_is_refused(
    small: Path, tmp_path: Path, shape: LlamaShape, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        grow_checkpoint(small, tmp_path, shape)


def test_key_value_heads_that_cannot_be_copied_evenly_are_refused() -> None:
    """Two of three heads each become four of two; three would mix the texts of two."""
    shape = replace(EMBEDDED, num_key_value_heads=3)
    with (
        pytest.raises(ConfigError, match="2 key-value heads of 3 heads each need 4 of 2, not 3"),
        grown("embedded/target", shape),
    ):
        pass


def test_what_is_no_llama_is_refused(tmp_path: Path) -> None:
    gpt2 = save_checkpoint(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ConfigError, match="only a Llama without biases"):
        grow_checkpoint(gpt2, tmp_path, SMALL)
    with pytest.raises(ConfigError, match="no folder of a checkpoint"):
        grow_checkpoint(tmp_path / "absent", tmp_path, SMALL)
