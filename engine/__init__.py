"""The engine's front door: the nouns, the configuration, and a handle on an engine process.

Importing it imports no torch. The same engine inside this process is `engine.api`.
"""

from typing import TYPE_CHECKING

from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig, NgramStageConfig
from engine.errors import (
    ConfigError,
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
)
from engine.request import (
    TARGET,
    EmittedToken,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    SamplingParams,
    Speculation,
    Step,
)
from engine.stats import SpeculationStats, StageStats, StepStats

if TYPE_CHECKING:
    from engine.process import EngineProcess

__all__ = [
    "TARGET",
    "ConfigError",
    "EmittedToken",
    "EngineConfig",
    "EngineDiedError",
    "EngineError",
    "EngineProcess",
    "FinishReason",
    "Finished",
    "GenerateRequest",
    "HeadStageConfig",
    "InvalidRequestError",
    "LoadProgress",
    "ModelInfo",
    "ModelLoadError",
    "ModelStageConfig",
    "NgramStageConfig",
    "SamplingParams",
    "Speculation",
    "SpeculationStats",
    "StageStats",
    "Step",
    "StepStats",
]


def __getattr__(name: str) -> object:
    """Import the handle when it is first asked for: a machine without zmq can use `engine.api`."""
    if name == "EngineProcess":
        from engine.process import EngineProcess

        return EngineProcess
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
