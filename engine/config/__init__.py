"""The engine's configuration: frozen dataclasses, checked from a plain mapping.

    EngineConfig.from_mapping({"model": "gpt2-large", "stages": [{"kind": "ngram"}]})

An unknown key is an error that names the nearest valid one.
"""

from engine.config.engine import Compile, EngineConfig
from engine.config.stage_list import STAGE_KINDS, below_drafter, most_nodes
from engine.config.stages import (
    Dtype,
    HeadStageConfig,
    ModelFreeStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
    StageConfig,
)

__all__ = [
    "STAGE_KINDS",
    "Compile",
    "Dtype",
    "EngineConfig",
    "HeadStageConfig",
    "ModelFreeStageConfig",
    "ModelStageConfig",
    "NgramStageConfig",
    "RecycleStageConfig",
    "StageConfig",
    "below_drafter",
    "most_nodes",
]
