"""Near ties are told by the target's own scores; passes are timed; shapes need no weights."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from engine.api import Engine
from engine.benchmark import gap, pass_times, rounding
from engine.config import EngineConfig
from engine.loading import random_model
from engine.model import Model
from engine.noise import NoiseRows, noise_values
from engine.request import GenerateRequest, Output, SamplingParams
from engine.shared import Shared
from tests.checkpoints import VOCAB_SIZE, make_model

REQUEST = GenerateRequest("r", (5, 9, 33), 6, SamplingParams(0.0))


@pytest.fixture
def target() -> Model:
    return make_model()


def engine_of(target: Model) -> Engine:
    config = EngineConfig("tiny", compile="never")
    return Engine(config, Shared(config, target))


def written(engine: Engine, request: GenerateRequest) -> Iterator[int]:
    for item in engine.generate(request):
        if isinstance(item, Output):
            yield from (token.token_id for token in item.tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_no_other_token_outscores_the_one_that_was_written(
    target: Model, temperature: float
) -> None:
    """Red when a gap leaves out the noise or the temperature, or is asked one place too late."""
    engine = engine_of(target)
    request = replace(REQUEST, sampling=SamplingParams(temperature, seed=3))
    text = list(written(engine, request))
    for place, token in enumerate(text):
        gaps = [gap(engine, request, text[:place], token, other) for other in range(VOCAB_SIZE)]
        assert gaps[token] == 0
        assert min(gaps[:token] + gaps[token + 1 :]) > 0


def test_a_gap_is_of_log_probabilities_over_temperature_and_noise(target: Model) -> None:
    """Red when scores are scaled otherwise than the sampler scales them."""
    engine = engine_of(target)
    sampling = SamplingParams(0.5, seed=3)
    sampled = gap(engine, replace(REQUEST, sampling=sampling), (4,), 7, 8)
    noise = noise_values([NoiseRows(3, VOCAB_SIZE)], [4], [[7, 8]]).tolist()
    greedy = gap(engine, REQUEST, (4,), 7, 8)
    assert sampled == pytest.approx(greedy / 0.5 + noise[0] - noise[1], abs=1e-5)


def test_rounding_is_of_every_logit_after_every_prompt_and_small_in_float32(target: Model) -> None:
    """Red when the two passes see other texts or other rows, whose logits are far apart."""
    prompts = [(5, 9, 33), (1, 2)]
    differences = rounding(target, prompts)
    assert len(differences) == 2 * VOCAB_SIZE
    assert max(differences) < 1e-4


def test_passes_of_every_network_and_width_are_timed(target: Model) -> None:
    """Red when a pass is over other rows than it is said to be, or rows are left behind."""
    num_passes, draft = target.num_passes, make_model(seed=1)
    times = pass_times({"target": target, "draft": draft}, range(10), (1, 4))
    assert times.keys() == {(name, width) for name in ("target", "draft") for width in (1, 4)}
    assert all(milliseconds > 0 for milliseconds in times.values())
    assert target.num_passes - num_passes == 1 + 2 * 3
    assert target.strips.seats[0].tokens == list(range(9))


def test_a_shape_alone_makes_a_model_that_scores(target: Model) -> None:
    """Red when a shape cannot be measured without a checkpoint, or in another precision."""
    shape = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
    )
    options = {"dtype": "bfloat16", "device": "cpu", "max_model_len": 32, "chunk": 16}
    model, again = (random_model(shape, **options) for _ in range(2))
    assert (model.dtype, model.max_model_len) == (torch.bfloat16, 32)
    assert model.limits.eos_token_ids == ()
    assert torch.equal(model.embedding, again.embedding)
