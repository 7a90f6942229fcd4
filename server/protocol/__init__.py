"""The wire as pydantic models, a file for each API and for what all have in common.

The words of the two APIs for agents are asked for by their files, `responses*.py` and
`anthropic*.py`. Nothing here knows of tokens or engines.
"""

from server.protocol.chat import ChatRequest
from server.protocol.chat_reply import (
    AppliedTemplate,
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
    UsageChatChunk,
)
from server.protocol.completions import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    PromptLogprob,
    UsageChunk,
)
from server.protocol.errors import AnthropicError, AnthropicErrorBody, ErrorBody, ErrorReply
from server.protocol.infill import (
    ChosenFields,
    InfillChunk,
    InfillReplies,
    InfillReply,
    InfillRequest,
    Timings,
)
from server.protocol.messages import Message, Tool
from server.protocol.models import ModelCard, ModelList
from server.protocol.prediction import Prediction
from server.protocol.request import StreamOptions, TextRequest
from server.protocol.sampling import SamplingFields
from server.protocol.structured import ANY_OBJECT, Wanted
from server.protocol.tokens import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)
from server.protocol.trace import BonusToken, TracedNode, TracedStep, TracedToken
from server.protocol.usage import (
    CompletionTokensDetails,
    PromptTokensDetails,
    ReplyHead,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    Usage,
)
from server.protocol.wire import is_encodable

__all__ = [
    "ANY_OBJECT",
    "AnthropicError",
    "AnthropicErrorBody",
    "AppliedTemplate",
    "BonusToken",
    "CallPiece",
    "ChatChoice",
    "ChatChunk",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatLogprobs",
    "ChatRequest",
    "Choice",
    "ChosenFields",
    "Completion",
    "CompletionRequest",
    "CompletionTokensDetails",
    "Delta",
    "DetokenizeReply",
    "DetokenizeRequest",
    "ErrorBody",
    "ErrorReply",
    "InfillChunk",
    "InfillReplies",
    "InfillReply",
    "InfillRequest",
    "Logprobs",
    "Message",
    "ModelCard",
    "ModelList",
    "Prediction",
    "PromptLogprob",
    "PromptTokensDetails",
    "ReplyHead",
    "ReplyMessage",
    "RequestMetrics",
    "SamplingFields",
    "SpeculativeDecoding",
    "StageMetrics",
    "StreamOptions",
    "TextRequest",
    "Timings",
    "TokenLogprob",
    "TokenizeReply",
    "TokenizeRequest",
    "TokenizerInfo",
    "Tool",
    "ToolCallPiece",
    "TopLogprob",
    "TracedNode",
    "TracedStep",
    "TracedToken",
    "Usage",
    "UsageChatChunk",
    "UsageChunk",
    "Wanted",
    "is_encodable",
]
