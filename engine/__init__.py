"""The engine's front door: the nouns, the configuration, and a handle on an engine process.

Importing it imports no torch. The same engine inside this process is `engine.api`.
"""

import os
from typing import TYPE_CHECKING

from engine.checks import check
from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig, NgramStageConfig
from engine.errors import (
    ConfigError,
    ContextLengthError,
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    did_you_mean,
    in_one_line,
    nearest,
)
from engine.names import find_folder
from engine.program import own_environment
from engine.request import (
    TARGET,
    EmittedToken,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    Output,
    SamplingParams,
    Speculation,
    TokenizerState,
    Update,
)
from engine.stats import SpeculationStats, StageStats, StepStats

# How long OpenMP's threads spin before they sleep; it is read when torch is loaded, so it is set
# here, unless the user has. By default they spin for milliseconds, many times in a pass, while the
# thread they wait for has no core: beside one busy process on two cores a pass of 1 ms then took
# 200. Without any spinning it takes 3 there, but 8 on an idle machine, whose cores sleep. With this
# count, 0.1 ms, streaming to a client on the same two cores is fastest.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from engine.process import EngineProcess
    from engine.tokenizer import read_tokenizer

__all__ = [
    "TARGET",
    "ConfigError",
    "ContextLengthError",
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
    "Output",
    "SamplingParams",
    "Speculation",
    "SpeculationStats",
    "StageStats",
    "StepStats",
    "TokenizerState",
    "Update",
    "check",
    "did_you_mean",
    "find_folder",
    "in_one_line",
    "nearest",
    "own_environment",
    "read_tokenizer",
]


def __getattr__(name: str) -> object:
    """Import when it is first asked for what needs zmq, which `engine.api` does not, or torch."""
    if name == "EngineProcess":
        from engine.process import EngineProcess

        return EngineProcess
    if name == "read_tokenizer":
        from engine.tokenizer import read_tokenizer

        return read_tokenizer
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
