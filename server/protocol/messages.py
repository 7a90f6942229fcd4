"""The messages of a conversation, as clients send them."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, FailFast, Field, model_validator

from server.protocol.foreign import refusal
from server.protocol.prediction import TextPart
from server.protocol.sampling import String
from server.protocol.wire import Text, Wire

MAX_MESSAGES = 4096
"""Messages of one conversation, with the calls of tools among them."""

_LONGEST_KIND = 32
Role = Literal["system", "developer", "user", "assistant", "tool"]


def text_of(value: object, kinds: tuple[str, ...] = ("text",)) -> object:
    """The text of a content, whose parts, all of these kinds, are lines of it."""
    if not isinstance(value, list):
        return value
    return "\n".join(_text_of_part(part, kinds) for part in value)


def _text_of_part(part: object, kinds: tuple[str, ...]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        example = f'{{"type": "{kinds[0]}", "text": ""}}'
        raise ValueError(f"must be a string or a list of parts such as {example}")
    if kind not in kinds:
        named = repr(kind[:_LONGEST_KIND])
        raise ValueError(f"a part of type {named} cannot be read: this model reads text alone")
    if not isinstance(text := part.get("text"), str):
        raise ValueError(f"a part of type {kind!r} must have a string as its text")
    return text


def _arguments(value: object) -> object:
    """Templates write arguments as JSON, so they are read where they are; others stay a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except (ValueError, RecursionError):
        return value


Content = Annotated[
    Text | None, BeforeValidator(text_of, json_schema_input_type=str | list[TextPart] | None)
]


class Said(Wire):
    """What a conversation has said; other fields than ours reach the template as they are."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class CalledFunction(Said):
    """A function that was called, and with what."""

    name: String
    """Its name."""
    arguments: Annotated[Any, BeforeValidator(_arguments)] = Field(default_factory=dict)
    """What it was given, as JSON text or as an object."""


class SaidCall(Said):
    """A call that the assistant has made."""

    id: str | None = None
    """The call's id."""
    type: Literal["function"] = "function"
    """What was called."""
    function: CalledFunction
    """Which function, and with what."""


class Message(Said):
    """One message; nulls are left out."""

    role: Role
    """Who says it."""
    content: Content = None
    """A text, or parts of type `text`."""
    tool_calls: list[SaidCall] | None = None
    """The assistant's calls."""
    tool_call_id: str | None = None
    """The call of which this is the result."""
    reasoning_content: Text | None = None
    """What the assistant had reasoned."""

    @model_validator(mode="before")
    @classmethod
    def _reasoning_has_one_name(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("reasoning_content") is None and "reasoning" in data:
            return {**data, "reasoning_content": data["reasoning"]}
        return data

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and (self.role != "assistant" or not self._has_more):
            raise refusal("messages", f"a message of role {self.role!r} must have a content")
        if self.tool_calls and self.role != "assistant":
            raise refusal("messages", f"a message of role {self.role!r} can have no tool_calls")
        return self

    @property
    def _has_more(self) -> bool:
        return bool(self.tool_calls or self.reasoning_content or (self.model_extra or {}))


def _few(messages: object) -> object:
    """Refuse by their number, before any is looked at, what would hold up others."""
    if not isinstance(messages, list):
        return messages
    calls = [each.get("tool_calls") for each in messages if isinstance(each, dict)]
    number = len(messages) + sum(len(each) for each in calls if isinstance(each, list))
    if number > MAX_MESSAGES:
        raise ValueError(f"{number} messages and calls are more than the {MAX_MESSAGES} allowed")
    return messages


Messages = Annotated[list[Message], FailFast(), BeforeValidator(_few), Field(min_length=1)]


class FunctionSpec(Said):
    """A function that a model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")]
    """What the model calls it by."""
    description: str | None = None
    """What it does."""
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments."""


class Tool(Said):
    """What a model may call."""

    type: Literal["function"]
    """What may be called."""
    function: FunctionSpec
    """The function."""
