"""The OpenAI wire as pydantic models. Nothing here knows of tokens or engines."""

from server.protocol.reply import (
    Choice,
    Completion,
    ErrorBody,
    ErrorReply,
    Logprobs,
    ModelCard,
    ModelList,
    PromptTokensDetails,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    Usage,
)
from server.protocol.request import CompletionRequest, StreamOptions

__all__ = [
    "Choice",
    "Completion",
    "CompletionRequest",
    "ErrorBody",
    "ErrorReply",
    "Logprobs",
    "ModelCard",
    "ModelList",
    "PromptTokensDetails",
    "RequestMetrics",
    "SpeculativeDecoding",
    "StageMetrics",
    "StreamOptions",
    "Usage",
]
