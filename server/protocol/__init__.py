"""The OpenAI wire as pydantic models, a file for each API and for what all have in common.

Nothing here knows of tokens or engines.
"""

from server.protocol.chat import ChatRequest
from server.protocol.chat_reply import (
    CallPiece,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    ReplyMessage,
    TokenLogprob,
    ToolCallPiece,
    TopLogprob,
)
from server.protocol.completions import Choice, Completion, CompletionRequest, Logprobs
from server.protocol.errors import ErrorBody, ErrorReply
from server.protocol.messages import Message, Tool
from server.protocol.models import ModelCard, ModelList
from server.protocol.request import StreamOptions, TextRequest
from server.protocol.sampling import SamplingFields
from server.protocol.usage import (
    PromptTokensDetails,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    Usage,
)

__all__ = [
    "CallPiece",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatLogprobs",
    "ChatRequest",
    "Choice",
    "Completion",
    "CompletionRequest",
    "Delta",
    "ErrorBody",
    "ErrorReply",
    "Logprobs",
    "Message",
    "ModelCard",
    "ModelList",
    "PromptTokensDetails",
    "ReplyMessage",
    "RequestMetrics",
    "SamplingFields",
    "SpeculativeDecoding",
    "StageMetrics",
    "StreamOptions",
    "TextRequest",
    "TokenLogprob",
    "Tool",
    "ToolCallPiece",
    "TopLogprob",
    "Usage",
]
