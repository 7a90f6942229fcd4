"""Training: it learns, it stops when its budget is spent, and it resumes where it stopped."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig

from engine.errors import ConfigError
from engine.training import trainer
from engine.training.jobs import new_llama
from engine.training.objectives import NextToken, mean_loss
from engine.training.optimizer import orthogonalise
from engine.training.recipe import Recipe
from engine.training.tokens import draw, frequent_ids, id_type, windows
from engine.training.trainer import Progress, Run

RECIPE = Recipe(
    minutes=5, max_steps=96, batch_tokens=128, lengths=((0.0, 16), (0.5, 32)), measure_every=8
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


def toy_run(checkpoint: Path, recipe: Recipe = RECIPE, origin: str = "", seed: int = 0) -> Run:
    return Run(NextToken(new_llama(toy_config(), seed)), recipe, checkpoint, origin)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = toy_run(tmp_path_factory.mktemp("run") / "toy.pt")
    run.train(toy_stream(0), toy_stream(1))
    return run


def test_training_reduces_the_loss(whole_run: Run) -> None:
    """Red when gradients do not reach the weights, or reach them with the wrong sign."""
    losses = whole_run.progress.losses
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    assert whole_run.progress.held_out[-1][1] < whole_run.progress.held_out[0][1]


def test_products_in_half_precision_train_as_well(tmp_path: Path, whole_run: Run) -> None:
    """Red when gradients get lost on the way through bfloat16, or weights are kept in it."""
    run = toy_run(tmp_path / "half.pt", replace(RECIPE, is_half=True))
    losses = run.train(toy_stream(0), toy_stream(1)).losses
    assert losses != whole_run.progress.losses
    assert losses == pytest.approx(whole_run.progress.losses, rel=0.1)
    assert {p.dtype for p in run.objective.module.parameters()} == {torch.float32}


def test_an_interrupted_run_continues_exactly(tmp_path: Path, whole_run: Run) -> None:
    """Red when weights, optimiser state, schedule or data order are lost at Ctrl-C, or half a step
    is kept."""

    def interrupt(progress: Progress, spent: float) -> None:
        if progress.step == 61:
            signal.raise_signal(signal.SIGINT)

    streams = toy_stream(0), toy_stream(1)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        toy_run(tmp_path / "toy.pt").train(*streams, report=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = toy_run(tmp_path / "toy.pt", seed=1)
    assert resumed.progress.step == 61
    resumed.train(*streams)
    assert resumed.progress.losses == whole_run.progress.losses
    assert resumed.progress.tokens == whole_run.progress.tokens


def test_every_step_is_reported_and_held_out_figures_from_the_start(tmp_path: Path) -> None:
    """Red when a bar stands still between measurements, or has no figure to begin with."""
    heard: list[tuple[int, int]] = []
    toy_run(tmp_path / "toy.pt", replace(RECIPE, max_steps=10)).train(
        toy_stream(0), toy_stream(1), lambda p, spent: heard.append((p.step, p.held_out[-1][0]))
    )
    assert heard == [*((step, 0) for step in range(1, 8)), (8, 8), (9, 8), (10, 8), (10, 10)]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    """Red when starting the command twice changes the weights or the curves."""
    recipe = replace(RECIPE, max_steps=2)
    streams = toy_stream(0), toy_stream(1)
    first = toy_run(tmp_path / "toy.pt", recipe).train(*streams)
    assert toy_run(tmp_path / "toy.pt", recipe).train(*streams) == first


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path) -> None:
    """Red when a finished run cannot be given more."""
    streams = toy_stream(0), toy_stream(1)
    toy_run(tmp_path / "toy.pt", replace(RECIPE, max_steps=2)).train(*streams)
    assert toy_run(tmp_path / "toy.pt", replace(RECIPE, max_steps=5)).train(*streams).step == 5


def test_the_clock_ends_a_run(tmp_path: Path) -> None:
    """Red when a run goes on after its minutes, whatever the steps."""
    run = toy_run(tmp_path / "toy.pt", replace(RECIPE, minutes=1e-6, max_steps=None))
    run.train(toy_stream(0), toy_stream(1))
    assert run.progress.step == 1


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Red when a work folder used twice mixes two runs, or ends in a traceback."""
    toy_run(tmp_path / "toy.pt", origin="a draft of one").save()
    with pytest.raises(ConfigError, match=r"a draft of one.*another work folder"):
        toy_run(tmp_path / "toy.pt", origin="a draft of two")
    wider = LlamaConfig(**{**toy_config().to_diff_dict(), "hidden_size": 32})
    with pytest.raises(ConfigError, match="another shape"):
        Run(NextToken(new_llama(wider, 0)), RECIPE, tmp_path / "toy.pt")


def test_a_checkpoint_leaves_out_what_is_not_trained(tmp_path: Path) -> None:
    """Red when a head's checkpoint carries the target's matrices, or lacks weights of its own."""
    model = new_llama(toy_config(), 0)
    model.model.norm.weight.requires_grad_(False)
    Run(NextToken(model), RECIPE, tmp_path / "toy.pt").save()
    kept = torch.load(tmp_path / "toy.pt")["model"].keys()
    assert set(model.state_dict()) - kept == {"model.norm.weight"}
    Run(NextToken(model), RECIPE, tmp_path / "toy.pt")
    with pytest.raises(ConfigError, match="another shape"):
        toy_run(tmp_path / "toy.pt")


def test_a_batch_in_parts_trains_as_a_whole_one(
    tmp_path: Path, whole_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when gradients of a large vocabulary's batch are weighed wrongly or partly dropped."""
    monkeypatch.setattr(trainer, "_LOGITS_AT_ONCE", 3 * 17 * 32)
    parts = toy_run(tmp_path / "toy.pt")
    with pytest.raises(StopIteration):
        parts.train(toy_stream(0), toy_stream(1), _stop_after_12)
    assert parts.progress.losses == pytest.approx(whole_run.progress.losses[:12], rel=1e-4)


def _stop_after_12(progress: Progress, spent: float) -> None:
    if progress.step == 12:
        raise StopIteration


def test_texts_shorter_than_a_sequence_are_trained_on_and_tiny_ones_refused(
    tmp_path: Path,
) -> None:
    """Red when little text ends in a traceback, or in a loss over nothing."""
    recipe = replace(RECIPE, max_steps=2, lengths=((0.0, 512),))
    progress = toy_run(tmp_path / "toy.pt", recipe).train(toy_stream(0)[:100], toy_stream(1)[:40])
    assert np.isfinite(progress.losses).all() and np.isfinite(progress.held_out[-1][1])
    for train, held_out in ((20, 100), (100, 10)):
        run = toy_run(tmp_path / f"{train}.pt", recipe)
        with pytest.raises(ConfigError, match="give more text"):
            run.train(toy_stream(0)[:train], toy_stream(1)[:held_out])


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


def test_the_loss_of_a_uniform_model_is_the_log_of_the_vocabulary() -> None:
    """Red when losses are averaged over the wrong positions or in the wrong unit."""
    model = new_llama(toy_config(), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert mean_loss(model, windows(toy_stream(0), 50, 3)) == pytest.approx(np.log(32))


def test_the_commonest_ids_are_found() -> None:
    """Red when a head's draft vocabulary is not what stands most often."""
    stream = np.array([5, 5, 5, 1, 1, 9, 3, 3], dtype=np.uint16)
    assert frequent_ids(stream, 10, 3) == [1, 3, 5]
    assert frequent_ids(stream, 10, 5) == [0, 1, 3, 5, 9]


def test_ids_take_two_bytes_as_long_as_they_fit() -> None:
    """Red when the largest vocabulary of two bytes, or the next one, is stored wrongly."""
    assert (id_type(1 << 16), id_type((1 << 16) + 1)) == (np.uint16, np.uint32)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    """Red when Newton-Schulz diverges, or transposes a tall matrix only once."""
    for shape in ((8, 24), (24, 8)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert orthogonalise(matrix).shape == matrix.shape
        assert values.min() > 0.6 and values.max() < 1.3
