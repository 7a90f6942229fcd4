"""The reply of `POST /v1/responses`; `responses_events.py` has its events."""

from typing import Any, Literal

from pydantic import Field

from server.protocol.usage import RequestMetrics
from server.protocol.wire import Wire, unless_none

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(Wire):
    """Text of a message."""

    type: Literal["output_text"] = "output_text"
    """What this is."""
    text: str
    """The text."""
    annotations: list[Any] = Field(default_factory=list)
    """Always empty."""
    logprobs: list[Any] = Field(default_factory=list)
    """Always empty."""


class ReasoningText(Wire):
    """Text of a reasoning."""

    type: Literal["reasoning_text"] = "reasoning_text"
    """What this is."""
    text: str
    """The text."""


class OutputItem(Wire):
    """An item of a reply."""

    id: str
    """The item's own."""
    status: Status
    """Whether more comes; incomplete where the reply was cut."""


class OutputMessage(OutputItem):
    """What the assistant says."""

    type: Literal["message"] = "message"
    """What this is."""
    role: Literal["assistant"] = "assistant"
    """Who says it."""
    content: list[OutputText]
    """The text; none while the item begins."""


class OutputReasoning(OutputItem):
    """What the model has reasoned."""

    type: Literal["reasoning"] = "reasoning"
    """What this is."""
    summary: list[Any] = Field(default_factory=list)
    """Always empty: reasoning is told as it is."""
    content: list[ReasoningText]
    """The text; none while the item begins."""
    encrypted_content: None = None
    """Always null."""


class OutputCall(OutputItem):
    """A call that the model makes."""

    call_id: str
    """To which its output is to refer."""
    name: str
    """What is called."""
    namespace: str | None = unless_none()
    """The group of tools it belongs to."""


class OutputFunctionCall(OutputCall):
    """A call of a function."""

    type: Literal["function_call"] = "function_call"
    """What this is."""
    arguments: str
    """JSON text, as the model wrote it."""


class OutputCustomCall(OutputCall):
    """A call of a tool that takes any text."""

    type: Literal["custom_tool_call"] = "custom_tool_call"
    """What this is."""
    input: str
    """The text."""


Output = OutputMessage | OutputReasoning | OutputFunctionCall | OutputCustomCall


class InputDetails(Wire):
    """Of the prompt's tokens."""

    cached_tokens: int
    """Those that an earlier request had left in the cache."""
    cache_write_tokens: int = 0
    """Always 0: to remember costs nothing."""


class OutputDetails(Wire):
    """Of the reply's tokens."""

    reasoning_tokens: int
    """Those up to the mark that ends the reasoning."""


class ResponsesUsage(Wire):
    """How many tokens it took."""

    input_tokens: int
    """Tokens of the prompt."""
    input_tokens_details: InputDetails
    """Of these."""
    output_tokens: int
    """Tokens of the reply."""
    output_tokens_details: OutputDetails
    """Of these."""
    total_tokens: int
    """Both together."""


class Failure(Wire):
    """What went wrong."""

    code: Literal["server_error", "invalid_prompt"]
    """Whose fault it is, in OpenAI's words."""
    type: str
    """The error's name, or its kind."""
    message: str
    """What is wrong."""


class IncompleteDetails(Wire):
    """Why a reply was cut."""

    reason: Literal["max_output_tokens"]
    """At its limit, or at the end of the window."""


class ResponseReply(Wire):
    """A reply, and what was asked for."""

    id: str
    """The request's id."""
    object: Literal["response"] = "response"
    """What this is."""
    model: str
    """The model's public name."""
    system_fingerprint: str
    """Changes with weights, precision and version: with whatever makes a text."""
    created_at: int
    """When the reply began, in seconds of Unix time."""
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    """How far it is."""
    error: Failure | None = None
    """What went wrong."""
    incomplete_details: IncompleteDetails | None = None
    """Why it was cut."""
    output: list[Output]
    """Its items."""
    usage: ResponsesUsage | None = None
    """How many tokens it took, once it is over."""
    seed: int
    """What writes this reply again."""
    metrics: RequestMetrics | None = unless_none()
    """What the request learned about itself, once it is over."""
    instructions: str | None
    """As it was asked for."""
    max_output_tokens: int | None
    """As it was asked for."""
    parallel_tool_calls: bool
    """As it was asked for."""
    reasoning: dict[str, Any]
    """As it was asked for."""
    temperature: float
    """As it was asked for."""
    text: dict[str, Any]
    """As it was asked for."""
    tool_choice: Any
    """As it was asked for."""
    tools: list[dict[str, Any]]
    """As they were sent."""
    top_p: float
    """As it was asked for."""
    metadata: dict[str, str]
    """As it was sent."""
    previous_response_id: None = None
    """Always null."""
    background: Literal[False] = False
    """Always false."""
    store: Literal[False] = False
    """Always false."""
    truncation: Literal["disabled"] = "disabled"
    """What does not fit is refused."""
