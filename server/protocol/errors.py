"""OpenAI's error envelope."""

from server.protocol.wire import Wire


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
