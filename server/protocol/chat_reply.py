"""The reply of `POST /v1/chat/completions`, whole or in chunks."""

from typing import Literal

from server.protocol.trace import TracedStep
from server.protocol.usage import ReplyHead, RequestMetrics, Usage
from server.protocol.wire import Wire, unless_none


class CallPiece(Wire):
    """A function's name, or more of the JSON text of its arguments."""

    name: str | None = unless_none()
    arguments: str


class ToolCallPiece(Wire):
    """A call, or a piece of it: `index` says of which, `id` and name come first."""

    index: int | None = unless_none()
    id: str | None = unless_none()
    type: Literal["function"] | None = unless_none()
    function: CallPiece


class ReplyMessage(Wire):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = unless_none()
    tool_calls: list[ToolCallPiece] | None = unless_none()


class Delta(Wire):
    """What a chunk adds to the assistant's message; the role comes with the first."""

    role: Literal["assistant"] | None = unless_none()
    content: str | None = unless_none()
    reasoning_content: str | None = unless_none()
    tool_calls: list[ToolCallPiece] | None = unless_none()


class TopLogprob(Wire):
    """A token that might have been, with the bytes that it stands for."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the reply, and its alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Wire):
    """The log-probabilities of a choice's tokens, those of calls and reasoning among them."""

    content: list[TokenLogprob]
    refusal: None = None


ChatEnd = Literal["stop", "length", "tool_calls"]


class _Choice(Wire):
    """What choices and their chunks both tell; `seed` reproduces the choice."""

    index: int
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatEnd | None
    stop_reason: str | int | None
    seed: int
    token_ids: list[int] | None = unless_none()


class ChatChoice(_Choice):
    """One whole choice."""

    message: ReplyMessage


class ChatChunkChoice(_Choice):
    """A piece of one choice."""

    delta: Delta
    trace: list[TracedStep] | None = unless_none()


class _Reply(ReplyHead):
    usage: Usage | None = unless_none()
    metrics: RequestMetrics | None = unless_none()


class ChatCompletion(_Reply):
    """A whole reply."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ChatChunk(_Reply):
    """One chunk of a streamed reply."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]


class UsageChatChunk(ChatChunk):
    """A chunk of a stream that has asked for usage, which is null until the last one."""

    usage: Usage | None = None


class AppliedTemplate(Wire):
    """The reply of `POST /apply-template`, as llama-server has it."""

    prompt: str
