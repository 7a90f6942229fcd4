"""OpenAI's error envelope, and Anthropic's."""

from typing import Literal

from server.protocol.wire import Wire, unless_none


class ErrorBody(Wire):
    """What went wrong; `param` names the field at fault, `code` the kind of failure."""

    message: str
    """What is wrong, and what to do about it."""
    type: str
    """The kind of error."""
    param: str | None
    """The field at fault, if one is."""
    code: str | None
    """The error's name, if it has one."""


class ErrorReply(Wire):
    """OpenAI's error envelope."""

    error: ErrorBody
    """The error."""


class AnthropicErrorBody(Wire):
    """What went wrong, and which kind of failure it is."""

    type: str
    """The kind of error."""
    message: str
    """What is wrong, and what to do about it."""
    details: dict[str, str] | None = unless_none()
    """The error's name as `error_code`, if it has one."""


class AnthropicError(Wire):
    """Anthropic's error envelope, which is also an event of a stream."""

    type: Literal["error"] = "error"
    """What this is."""
    error: AnthropicErrorBody
    """The error."""
