"""The reply of `POST /v1/chat/completions`, whole or in chunks."""

from typing import Literal

from server.protocol.trace import TracedStep
from server.protocol.usage import ReplyHead, RequestMetrics, Usage
from server.protocol.wire import Wire, unless_none


class CallPiece(Wire):
    """A function's name, or more of the JSON text of its arguments."""

    name: str | None = unless_none()
    """The function's name."""
    arguments: str
    """JSON text, or more of it."""


class ToolCallPiece(Wire):
    """A call, or a piece of it: `index` says of which, `id` and name come first."""

    index: int | None = unless_none()
    """Of which call of a stream this is a piece."""
    id: str | None = unless_none()
    """The call's id, to which its result refers."""
    type: Literal["function"] | None = unless_none()
    """What is called."""
    function: CallPiece
    """Which function, and with what."""


class ReplyMessage(Wire):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    """Who says it."""
    content: str | None
    """The text beside reasoning and calls."""
    refusal: None = None
    """Always null: this server refuses with errors."""
    reasoning_content: str | None = unless_none()
    """What the model reasoned, where its template marks it."""
    tool_calls: list[ToolCallPiece] | None = unless_none()
    """The calls that the model makes."""


class Delta(Wire):
    """What a chunk adds to the assistant's message; the role comes with the first."""

    role: Literal["assistant"] | None = unless_none()
    """Who says it, in the first chunk of each choice."""
    content: str | None = unless_none()
    """More of the text."""
    reasoning_content: str | None = unless_none()
    """More of the reasoning."""
    tool_calls: list[ToolCallPiece] | None = unless_none()
    """More of the calls."""


class TopLogprob(Wire):
    """A token that might have been, with the bytes that it stands for."""

    token: str
    """Its text."""
    logprob: float
    """The logarithm of its probability."""
    bytes: list[int] | None
    """What it stands for, in UTF-8 or a part of that."""


class TokenLogprob(TopLogprob):
    """A token of the reply, and its alternatives."""

    top_logprobs: list[TopLogprob]
    """As many as were asked for, the likeliest first."""


class ChatLogprobs(Wire):
    """The log-probabilities of a choice's tokens, those of calls and reasoning among them."""

    content: list[TokenLogprob]
    """One for each token."""
    refusal: None = None
    """Always null."""


ChatEnd = Literal["stop", "length", "tool_calls"]


class _Choice(Wire):
    """What choices and their chunks both tell; `seed` reproduces the choice."""

    index: int
    """Which of the request's choices it is."""
    logprobs: ChatLogprobs | None = None
    """Those of its tokens, if they were asked for."""
    finish_reason: ChatEnd | None
    """Why it ended; null in a chunk before the last."""
    stop_reason: str | int | None
    """The stop string, or the token id, that ended it."""
    seed: int
    """What writes this choice again."""
    token_ids: list[int] | None = unless_none()
    """The ids of its tokens, if they were asked for."""


class ChatChoice(_Choice):
    """One whole choice."""

    message: ReplyMessage
    """What the assistant says."""


class ChatChunkChoice(_Choice):
    """A piece of one choice."""

    delta: Delta
    """What this chunk adds."""
    trace: list[TracedStep] | None = unless_none()
    """The steps that this came from, if they were asked for."""


class _Reply(ReplyHead):
    usage: Usage | None = unless_none()
    """How many tokens it took."""
    metrics: RequestMetrics | None = unless_none()
    """What the request learned about itself."""


class ChatCompletion(_Reply):
    """A whole reply."""

    object: Literal["chat.completion"] = "chat.completion"
    """What this is."""
    choices: list[ChatChoice]
    """As many as `n` says."""


class ChatChunk(_Reply):
    """One chunk of a streamed reply."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    """What this is."""
    choices: list[ChatChunkChoice]
    """The one that this chunk adds to; none where it tells the usage alone."""


class UsageChatChunk(ChatChunk):
    """A chunk of a stream that has asked for usage, which is null until the last one."""

    usage: Usage | None = None
    """Null but in the last chunk, unless running usage was asked for."""


class AppliedTemplate(Wire):
    """The reply of `POST /apply-template`, as llama-server has it."""

    prompt: str
    """What the template writes."""
