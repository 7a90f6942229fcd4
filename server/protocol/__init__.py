"""The OpenAI wire as pydantic models, a file for each API and for what all have in common.

Nothing here knows of tokens or engines.
"""

from server.protocol.completions import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    PromptLogprob,
    UsageChunk,
)
from server.protocol.errors import ErrorBody, ErrorReply
from server.protocol.infill import ChosenFields, InfillReply, InfillRequest, Timings
from server.protocol.models import ModelCard, ModelList
from server.protocol.prediction import Prediction
from server.protocol.request import StreamOptions, TextRequest
from server.protocol.sampling import SamplingFields
from server.protocol.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)
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
    "ChosenFields",
    "Completion",
    "CompletionRequest",
    "CompletionTokensDetails",
    "DetokenizeReply",
    "DetokenizeRequest",
    "ErrorBody",
    "ErrorReply",
    "InfillReply",
    "InfillRequest",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "Prediction",
    "PromptLogprob",
    "PromptTokensDetails",
    "RequestMetrics",
    "SamplingFields",
    "SpeculativeDecoding",
    "StageMetrics",
    "StreamOptions",
    "TextRequest",
    "Timings",
    "TokenizeReply",
    "TokenizeRequest",
    "TokenizerInfo",
    "Usage",
    "UsageChunk",
]
