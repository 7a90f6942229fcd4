"""The events of a streamed reply of `POST /v1/responses`."""

from typing import Any, Literal

from server.protocol.responses_reply import Output, OutputText, ReasoningText, ResponseReply
from server.protocol.wire import Wire, unless_none


class Event(Wire):
    """An event of a stream; these count up from 0."""

    sequence_number: int
    """Which of them it is."""


class ResponseEvent(Event):
    """The reply begins, or is over."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    """What has happened."""
    response: ResponseReply
    """The reply as it is now."""


class ItemEvent(Event):
    """An item begins or is over."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    """What has happened."""
    output_index: int
    """Which item."""
    item: Output
    """The item as it is now."""


class PlacedEvent(Event):
    """Something happens within an item."""

    item_id: str
    """The item."""
    output_index: int
    """Which one it is."""


class PartEvent(PlacedEvent):
    """A part of an item begins or is over."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    """What has happened."""
    content_index: int = 0
    """Which part."""
    part: OutputText | ReasoningText
    """The part as it is now."""


class DeltaEvent(PlacedEvent):
    """An item has more text."""

    type: Literal[
        "response.output_text.delta",
        "response.reasoning_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    ]
    """What has happened."""
    content_index: int | None = unless_none()
    """Which part, of items that have any."""
    delta: str
    """What is new."""
    logprobs: list[Any] | None = unless_none()
    """Always empty, and there for text alone."""


class DoneEvent(PlacedEvent):
    """An item has all of its text, by the name that its kind has for it."""

    type: Literal[
        "response.output_text.done",
        "response.reasoning_text.done",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.done",
    ]
    """What has happened."""
    content_index: int | None = unless_none()
    """Which part, of items that have any."""
    text: str | None = unless_none()
    """All of a message or a reasoning."""
    arguments: str | None = unless_none()
    """All of a function's."""
    input: str | None = unless_none()
    """All that a custom tool is given."""
    name: str | None = unless_none()
    """The function."""
    logprobs: list[Any] | None = unless_none()
    """Always empty, and there for text alone."""


EVENTS = (ResponseEvent, ItemEvent, PartEvent, DeltaEvent, DoneEvent)
