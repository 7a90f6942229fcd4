"""The configuration: what is refused, and that the message names the remedy."""

import pytest

from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.drafting.build import stage_names
from engine.errors import ConfigError


def test_a_mapping_becomes_frozen_stages_in_order() -> None:
    config = EngineConfig.from_mapping(
        {
            "model": "gpt2",
            "dtype": "float32",
            "stages": [
                {"kind": "model", "model": "distilgpt2", "budget": 16},
                {"kind": "ngram", "children": 3},
            ],
        }
    )
    assert config.stages == (
        ModelStageConfig(model="distilgpt2", budget=16),
        NgramStageConfig(children=3),
    )
    with pytest.raises(AttributeError):
        config.model = "other"  # type: ignore[misc]


def test_no_stages_and_null_stages_are_plain_decoding() -> None:
    assert EngineConfig.from_mapping({"model": "gpt2"}).stages == ()
    assert EngineConfig.from_mapping({"model": "gpt2", "stages": None}).stages == ()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"model": "x", "dtyp": "float32"}, r"unknown key dtyp\. Did you mean 'dtype'\?"),
        ({"model": "x", "zzz": 1}, "unknown key zzz. Valid names: model"),
        ({"model": "x", "stages": [{"kind": "ngrams"}]}, r"stages\[0\].kind.*mean 'ngram'\?"),
        ({"model": "x", "stages": [{"model": "y"}]}, r"stages\[0\] needs a `kind`"),
        ({"model": "x", "stages": ["ngram"]}, r"stages\[0\] needs a `kind`"),
        ({"model": "x", "stages": "ngram"}, "stages must be a list"),
        ({"model": "x", "stages": [{"kind": "model"}]}, r"stages\[0\].model is missing"),
        ({"model": "x", "stages": [{"kind": "ngram", "budgt": 3}]}, r"budgt.*mean 'budget'\?"),
        ({"model": "x", "stages": [{"kind": "ngram", "budget": 0}]}, "whole number, 1 or more"),
        ({"model": "x", "stages": [{"kind": "ngram", "budget": -1}]}, "whole number, 1 or more"),
        ({"model": "x", "stages": [{"kind": "ngram", "budget": True}]}, "whole number, 1 or more"),
        ({"model": "x", "stages": [{"kind": "ngram", "budget": 2000}]}, "2000 nodes in a step"),
        ({"model": "x", "stages": [{"kind": "model", "model": "y", "passes": 500}]}, "lower its"),
        ({"model": "x", "prefill_chunk": 0}, "prefill_chunk must be a whole number, 1 or more"),
        ({"model": "x", "threads": -1}, "whole number, 0 or more"),
        ({"model": "x", "dtype": "fp8"}, "one of auto, float32"),
        ({"model": 5}, "model must be str"),
        ({}, "model is missing"),
    ],
)
def test_a_bad_mapping_is_refused_with_the_remedy(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig.from_mapping(mapping)


def test_stages_of_one_kind_are_told_apart() -> None:
    model = ModelStageConfig(model="x")
    assert stage_names((model, model, NgramStageConfig())) == ("draft", "draft2", "ngram")
