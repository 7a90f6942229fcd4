"""The OpenAI wire as pydantic models, a file for each API and for what all have in common.

Nothing here knows of tokens or engines.
"""

from server.protocol.completions import Choice, Completion, CompletionRequest, Logprobs
from server.protocol.errors import ErrorBody, ErrorReply
from server.protocol.models import ModelCard, ModelList
from server.protocol.prediction import Prediction
from server.protocol.request import StreamOptions, TextRequest
from server.protocol.sampling import SamplingFields
from server.protocol.usage import (
    CompletionTokensDetails,
    PromptTokensDetails,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    Usage,
)

__all__ = [
    "Choice",
    "Completion",
    "CompletionRequest",
    "CompletionTokensDetails",
    "ErrorBody",
    "ErrorReply",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "Prediction",
    "PromptTokensDetails",
    "RequestMetrics",
    "SamplingFields",
    "SpeculativeDecoding",
    "StageMetrics",
    "StreamOptions",
    "TextRequest",
    "Usage",
]
