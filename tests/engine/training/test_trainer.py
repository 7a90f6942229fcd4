"""Training: it learns, it stops when its budget is spent, and it resumes where it stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig

from engine.training.optimizer import orthogonalise
from engine.training.pretrain import Progress, Recipe, Run, draw, mean_loss, windows

RECIPE = Recipe(
    minutes=5, max_steps=96, batch_tokens=128, lengths=((0.0, 16), (0.5, 32)), report_every=8
)


def toy_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )


def toy_stream(seed: int) -> NDArray[np.uint16]:
    """Random words of four tokens each: after a word's first token the rest is certain."""
    first = np.random.default_rng(seed).integers(0, 8, 400)
    return np.stack([first, first + 8, first + 16, first + 24], axis=1).ravel().astype(np.uint16)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(toy_config(), RECIPE, tmp_path_factory.mktemp("run") / "toy.pt")
    run.train(toy_stream(0), toy_stream(1))
    return run


def test_training_reduces_the_loss(whole_run: Run) -> None:
    """Red when gradients do not reach the weights, or reach them with the wrong sign."""
    losses = whole_run.progress.losses
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    assert whole_run.progress.held_out[-1][1] < whole_run.progress.held_out[0][1]


def test_a_stopped_run_continues_exactly(tmp_path: Path, whole_run: Run) -> None:
    """Red when weights, optimiser state, schedule or data order are lost at a stop."""
    stopped = Run(toy_config(), RECIPE, tmp_path / "toy.pt")
    streams = toy_stream(0), toy_stream(1)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(*streams, report=_stop_after(64, stopped))
    resumed = Run(toy_config(), RECIPE, tmp_path / "toy.pt")
    assert resumed.progress.step == 64
    resumed.train(*streams)
    assert resumed.progress.losses == whole_run.progress.losses
    assert resumed.progress.tokens == whole_run.progress.tokens


def _stop_after(step: int, run: Run) -> Callable[[Progress, float], None]:
    def report(progress: Progress, spent: float) -> None:
        if progress.step == step:
            run.save()
            raise KeyboardInterrupt

    return report


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """Red when starting the command twice changes the weights."""
    recipe = replace(RECIPE, max_steps=2)
    streams = toy_stream(0), toy_stream(1)
    Run(toy_config(), recipe, tmp_path / "toy.pt").train(*streams)
    again = Run(toy_config(), recipe, tmp_path / "toy.pt")
    again.train(*streams)
    assert again.progress.step == 2


def test_the_clock_ends_a_run(tmp_path: Path) -> None:
    """Red when a run goes on after its minutes, whatever the steps."""
    run = Run(toy_config(), replace(RECIPE, minutes=1e-6, max_steps=None), tmp_path / "toy.pt")
    run.train(toy_stream(0), toy_stream(1))
    assert run.progress.step == 1


def test_sequences_grow_and_the_rate_falls() -> None:
    """Red when the schedule skips a length, or the rate does not rise, hold and end at zero."""
    assert [RECIPE.length_at(spent) for spent in (0.0, 0.49, 0.5, 1.0)] == [16, 16, 32, 32]
    rates = [RECIPE.rate_at(spent) for spent in (0.0, 0.01, 0.02, 0.4, 0.7, 1.0)]
    assert rates == pytest.approx([0.02, 0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-6)


def test_sequences_cover_the_stream_evenly() -> None:
    """Red when the order repeats itself or leaves a gap in the stream."""
    stream = np.arange(10_000, dtype=np.uint16)
    starts = np.sort(draw(stream, 0, 100, 20)[:, 0].numpy())
    assert np.diff(starts).max() < 2.7 * len(stream) / 100
    assert np.diff(starts).min() > 0
    assert torch.equal(draw(stream, 40, 5, 20), draw(stream, 0, 100, 20)[40:45])


def test_the_loss_of_a_uniform_model_is_the_log_of_the_vocabulary(tmp_path: Path) -> None:
    """Red when losses are averaged over the wrong positions or in the wrong unit."""
    run = Run(toy_config(), RECIPE, tmp_path / "toy.pt")
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.zero_()
    assert mean_loss(run.model, windows(toy_stream(0), 50, 3)) == pytest.approx(np.log(32))


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    """Red when Newton-Schulz diverges, or transposes a tall matrix only once."""
    for shape in ((8, 24), (24, 8)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert orthogonalise(matrix).shape == matrix.shape
        assert values.min() > 0.6 and values.max() < 1.3
