"""Engines over the same weights: each writes as if it were alone, one at a time."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from engine.api import Engine
from engine.config import EngineConfig
from engine.decoder import Decoder
from engine.errors import EngineError
from engine.request import GenerateRequest, SamplingParams
from tests.checkpoints import make_head_weights, make_network, save_checkpoint, save_head_checkpoint

FIRST = GenerateRequest("1", (5, 9, 33, 7), 12, SamplingParams(0.0), ignore_eos=True)
SECOND = replace(FIRST, prompt=(3, 14, 15, 9, 26, 5), speculation="always")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    """A target of three layers and a head over it."""
    folder = tmp_path_factory.mktemp("head")
    target = save_checkpoint(folder / "target", num_hidden_layers=3)
    weights = make_head_weights(make_network(num_hidden_layers=3))
    head = save_head_checkpoint(folder / "head", *weights)
    mapping = {
        "model": str(target),
        "stages": [{"kind": "head", "model": str(head)}],
        "dtype": "float32",
        "compile": "never",
        "max_running": 1,
    }
    return EngineConfig.from_mapping(mapping)


def features_after(engine: Engine) -> torch.Tensor:
    """What a head would read of the second text."""
    list(engine.generate(SECOND))
    target = engine.scorers["target"]
    return target.features(0, 0, len(target.strips.seats[0].tokens))  # type: ignore[attr-defined]


def test_a_head_reads_this_text_after_a_sibling_without_one_has_written(
    config: EngineConfig,
) -> None:
    """Red when features are left as an older text's, which drafts would silently be made from."""
    engine = Engine.load(config)
    list(engine.generate(FIRST))
    list(engine.with_stages(()).generate(replace(FIRST, prompt=(8, 1, 40, 2, 2))))
    assert torch.allclose(features_after(engine), features_after(Engine.load(config)), atol=1e-5)


@pytest.fixture
def halfway(config: EngineConfig) -> Iterator[tuple[Engine, Engine]]:
    """Two engines, of which the first is in the middle of a text."""
    engine = Engine.load(config)
    other = engine.with_stages(())
    steps = engine.generate(FIRST)
    next(steps)
    yield engine, other
    rest = list(steps)
    assert rest, "it goes on as if nobody had asked"


def test_nobody_writes_into_the_middle_of_a_siblings_text(
    halfway: tuple[Engine, Engine],
) -> None:
    """Red when two of them share a cache in the same moment."""
    engine, other = halfway
    with pytest.raises(EngineError, match="another engine over the same weights"):
        next(other.generate(SECOND))
    with pytest.raises(EngineError, match="another engine over the same weights"):
        other.add(SECOND)
    with pytest.raises(EngineError, match="another engine over the same weights"):
        engine.with_stages(())


def test_a_sibling_times_its_passes_anew_once_they_are_run_in_another_way(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when only the engine that changed over knows what its steps cost now."""
    engine = Engine.load(config)
    other = engine.with_stages(())
    timed: list[Decoder] = []
    monkeypatch.setattr(Decoder, "measure", lambda self: timed.append(self))
    monkeypatch.setattr(other._acceleration, "change_over", lambda: True)
    assert other.change_over()
    for _ in range(2):
        list(engine.generate(FIRST))
    assert list(map(id, timed)) == [id(other._decoder), id(engine._decoder)]


def test_engines_of_the_same_stages_learn_together(config: EngineConfig) -> None:
    """Red when a benchmark's next round begins without what the last one has found out."""
    engine = Engine.load(config)
    again = engine.with_stages(()).with_stages(config.stages)
    assert again._decoder.economy is engine._decoder.economy
