"""Sampling: the distribution that the temperature asks for, the same text every time, resumable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from engine.errors import ConfigError
from engine.training.measure import first_choices, model_agreement
from engine.training.sample import SamplePlan, sample_batch, sample_texts

PLAN = SamplePlan(num_tokens=100, num_sequences=4, length=16, prompt_length=3)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=1.0,
    )
    network = LlamaForCausalLM(config)
    network.train(False)
    return network


def test_samples_follow_the_temperature(model: LlamaForCausalLM) -> None:
    """Red when the noise is not exponential, or the temperature multiplies what it divides."""
    prompt = torch.tensor([[3, 1, 4]])
    logits = model(prompt).logits[0, -1].detach()
    sampled = sample_batch(model, prompt.expand(20_000, 3), 1, 1.5, seed=0)
    frequencies = torch.bincount(sampled.flatten(), minlength=16) / len(sampled)
    assert torch.allclose(frequencies, (logits / 1.5).softmax(-1), atol=0.015)


def test_near_zero_temperature_follows_first_choices(model: LlamaForCausalLM) -> None:
    """Red when the cache or the positions of a continued batch are wrong."""
    prompts = torch.tensor([[3, 1, 4], [1, 5, 9]])
    sampled = sample_batch(model, prompts, 12, 1e-4, seed=0)
    for prompt, row in zip(prompts, sampled, strict=True):
        whole = torch.cat([prompt, row])[None]
        assert first_choices(model, whole)[2:-1].tolist() == row.tolist()


def test_sampled_batches_are_kept_and_used_again(model: LlamaForCausalLM, tmp_path: Path) -> None:
    """Red when a second run samples anew, or what it reads is not what was sampled."""
    stream = np.arange(100, dtype=np.uint16) % 16
    first = np.stack(list(sample_texts(model, stream, PLAN, tmp_path)))
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = np.stack(list(sample_texts(model, stream, PLAN, tmp_path)))
    assert first.shape == (8, 16)
    assert np.array_equal(first, again)
    assert written == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_samples_of_another_plan_are_refused(model: LlamaForCausalLM, tmp_path: Path) -> None:
    """Red when a table mixes texts of two temperatures or models; more of the same is no other."""
    stream = np.arange(100, dtype=np.uint16) % 16
    assert len(list(sample_texts(model, stream, PLAN, tmp_path))) == 8
    assert len(list(sample_texts(model, stream, replace(PLAN, num_tokens=130), tmp_path))) == 12
    with pytest.raises(ConfigError, match="another work folder"):
        list(sample_texts(model, stream, replace(PLAN, temperature=1.0), tmp_path))


def test_ids_beyond_16_bits_survive(tmp_path: Path) -> None:
    """Red when samples of a large vocabulary are stored in the small type, and wrap around."""
    config = LlamaConfig(
        vocab_size=70_000,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    stream = np.arange(69_000, 69_100, dtype=np.uint32)
    sampled = np.stack(list(sample_texts(LlamaForCausalLM(config), stream, PLAN, tmp_path)))
    assert sampled.max() > 65_535


def test_batches_shrink_until_their_cache_fits_memory(model: LlamaForCausalLM) -> None:
    """Red when a large target is asked for as many texts at once as a tiny draft."""
    assert SamplePlan(1).fitting(model).num_sequences == 256
    model.config.num_hidden_layers = 1000
    fitting = SamplePlan(1).fitting(model)
    model.config.num_hidden_layers = 1
    row = 2 * 1000 * 16 * 4
    assert fitting.num_sequences * row * (256 + 8) <= 2 << 30
    assert (fitting.num_sequences + 1) * row * (256 + 8) > 2 << 30


def test_a_model_agrees_with_itself(model: LlamaForCausalLM) -> None:
    """Red when agreement compares different positions."""
    assert model_agreement(model, model, [torch.tensor([[1, 2, 3]])]) == 1.0
