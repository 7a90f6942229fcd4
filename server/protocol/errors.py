"""OpenAI's error envelope."""

from server.protocol.wire import Wire


class ErrorBody(Wire):
    """What went wrong; `param` names the field at fault, `code` the kind of failure."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Wire):
    """OpenAI's error envelope."""

    error: ErrorBody
