"""The reply of `POST /v1/messages`, whole or as events."""

from typing import Any, Literal

from server.protocol.usage import RequestMetrics
from server.protocol.wire import Wire, unless_none


class ReplyText(Wire):
    """What the assistant says."""

    type: Literal["text"] = "text"
    """What this is."""
    text: str
    """The text."""
    citations: None = None
    """Always null."""


class ReplyThinking(Wire):
    """What the model has thought."""

    type: Literal["thinking"] = "thinking"
    """What this is."""
    thinking: str
    """The text."""
    signature: str
    """A digest of it, which says nothing."""


class ReplyToolUse(Wire):
    """A call that the model makes."""

    type: Literal["tool_use"] = "tool_use"
    """What this is."""
    id: str
    """To which its result is to refer."""
    name: str
    """The tool."""
    input: dict[str, Any]
    """What it is given; `unparsed` is what the model wrote where that is no JSON object."""


ReplyBlock = ReplyText | ReplyThinking | ReplyToolUse


class OutputTokensDetails(Wire):
    """Of the reply's tokens."""

    thinking_tokens: int
    """Those up to the mark that ends what is thought."""


class AnthropicUsage(Wire):
    """How many tokens it took; those of a prompt are the sum of all three counts of input."""

    input_tokens: int
    """Tokens of the prompt that were read."""
    cache_creation_input_tokens: int = 0
    """Always 0: to remember costs nothing."""
    cache_read_input_tokens: int
    """Tokens of the prompt that an earlier request had left in the cache."""
    output_tokens: int
    """Tokens of the reply, so far."""
    output_tokens_details: OutputTokensDetails | None = unless_none()
    """Of these, once the reply is over."""


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnthropicMessage(Wire):
    """A reply."""

    id: str
    """The request's id."""
    type: Literal["message"] = "message"
    """What this is."""
    role: Literal["assistant"] = "assistant"
    """Who says it."""
    model: str
    """The model's public name."""
    content: list[ReplyBlock]
    """Its blocks; none while it begins."""
    stop_reason: StopReason | None
    """Why it ended; null while it begins."""
    stop_sequence: str | None
    """The string that ended it, if one did."""
    usage: AnthropicUsage
    """How many tokens it took."""
    seed: int
    """What writes this reply again."""
    system_fingerprint: str
    """Changes with weights, precision and version: with whatever makes a text."""
    metrics: RequestMetrics | None = unless_none()
    """What the request learned about itself, once it is over."""


class MessageStart(Wire):
    """The reply begins."""

    type: Literal["message_start"] = "message_start"
    """What has happened."""
    message: AnthropicMessage
    """The reply, without blocks."""


class Ping(Wire):
    """Nothing has happened."""

    type: Literal["ping"] = "ping"
    """What this is."""


class BlockStart(Wire):
    """A block begins."""

    type: Literal["content_block_start"] = "content_block_start"
    """What has happened."""
    index: int
    """Which block."""
    content_block: ReplyBlock
    """The block, still empty."""


class BlockAddition(Wire):
    """What a block has more, by the name that its kind has for it."""

    type: Literal["text_delta", "thinking_delta", "signature_delta", "input_json_delta"]
    """What it is."""
    text: str | None = unless_none()
    """More of a text."""
    thinking: str | None = unless_none()
    """More of what is thought."""
    signature: str | None = unless_none()
    """The digest of what was thought."""
    partial_json: str | None = unless_none()
    """More of the JSON text that a tool is given."""


class BlockDelta(Wire):
    """A block has more."""

    type: Literal["content_block_delta"] = "content_block_delta"
    """What has happened."""
    index: int
    """Which block."""
    delta: BlockAddition
    """What is new."""


class BlockStop(Wire):
    """A block is over."""

    type: Literal["content_block_stop"] = "content_block_stop"
    """What has happened."""
    index: int
    """Which block."""


class Ending(Wire):
    """How the reply has ended."""

    stop_reason: StopReason
    """Why."""
    stop_sequence: str | None
    """The string that ended it, if one did."""


class MessageDelta(Wire):
    """The reply ends."""

    type: Literal["message_delta"] = "message_delta"
    """What has happened."""
    delta: Ending
    """How."""
    usage: AnthropicUsage
    """How many tokens it took."""
    metrics: RequestMetrics
    """What the request learned about itself."""


class MessageStop(Wire):
    """The reply has ended."""

    type: Literal["message_stop"] = "message_stop"
    """What has happened."""


EVENTS = (MessageStart, Ping, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop)


class TokenCount(Wire):
    """The reply of `POST /v1/messages/count_tokens`."""

    input_tokens: int
    """Tokens of the prompt."""
