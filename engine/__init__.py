"""The engine's front door: the nouns, the configuration, and a handle on an engine process.

Importing it imports no torch. The same engine inside this process is `engine.api`.
"""

from typing import TYPE_CHECKING

from engine.checks import check
from engine.config import (
    Dtype,
    EngineConfig,
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
)
from engine.errors import (
    ConfigError,
    ContextLengthError,
    EngineBusyError,
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    ModelLoadError,
    did_you_mean,
    in_one_line,
    nearest,
)
from engine.names import find_folder, short_name
from engine.prefix import num_common
from engine.program import own_environment
from engine.public import CHECKED, PublicDraft, public_drafts
from engine.request import (
    GRAMMAR,
    PREDICTION,
    PROMPT,
    TARGET,
    Constraint,
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
from engine.stats import SpeculationStats, StageStats, StepStats, StepTrace

if TYPE_CHECKING:
    from engine.process import EngineProcess
    from engine.tokenizer import read_tokenizer

__all__ = [
    "CHECKED",
    "GRAMMAR",
    "PREDICTION",
    "PROMPT",
    "TARGET",
    "ConfigError",
    "Constraint",
    "ContextLengthError",
    "Dtype",
    "EmittedToken",
    "EngineBusyError",
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
    "PublicDraft",
    "RecycleStageConfig",
    "SamplingParams",
    "Speculation",
    "SpeculationStats",
    "StageStats",
    "StepStats",
    "StepTrace",
    "TokenizerState",
    "Update",
    "check",
    "did_you_mean",
    "find_folder",
    "in_one_line",
    "nearest",
    "num_common",
    "own_environment",
    "public_drafts",
    "read_tokenizer",
    "short_name",
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
