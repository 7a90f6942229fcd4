"""Exceptions, and the one table that turns each into an error envelope.

OpenAI's is {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}; Anthropic's
{"type": "error", "error": {"type": ..., "message": ...}} is that of its own API.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from engine import ContextLengthError, EngineBusyError, EngineDiedError, InvalidRequestError
from server.protocol import AnthropicError, AnthropicErrorBody, ErrorBody, ErrorReply


class ApiError(Exception):
    """A refusal with a message for the client; `param` names the field at fault."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """The request can never be served as it stands."""


class NotStoredError(BadRequestError):
    """The request goes on with a conversation, or wants one kept; Anthropic's SDK asks again."""


class UnauthorizedError(ApiError):
    """The API key is missing or wrong."""


class ModelNotFoundError(ApiError):
    """The request names a model that this server does not serve."""


class ClientGoneError(ApiError):
    """The client closed the connection; nobody reads the answer."""


class SlowReaderError(ClientGoneError):
    """The client reads its stream more slowly than it is written, by more than can be kept."""


class NotReadyError(ApiError):
    """The model is still loading, or its engine process is being restarted."""


class LoadFailedError(ApiError):
    """The model could not be loaded; trying again will not help."""


class QueueFullError(ApiError):
    """Every place in the queue is taken."""


class QueueTimeoutError(ApiError):
    """The request waited for its turn longer than allowed."""


class TooManyConnectionsError(ApiError):
    """There is no file descriptor left for one more."""


class DrainingError(ApiError):
    """The server is shutting down."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one kind of exception looks on the wire; `is_final` tells SDKs not to retry."""

    status: int
    type: str
    code: str | None = None
    is_final: bool = False


_INVALID = "invalid_request_error"
_UNAVAILABLE = "service_unavailable_error"

ANSWERS: Mapping[type[Exception], Answer] = {
    BadRequestError: Answer(400, _INVALID),
    NotStoredError: Answer(400, _INVALID, "thread_unsupported_request"),
    InvalidRequestError: Answer(400, _INVALID),
    ContextLengthError: Answer(400, _INVALID, "context_length_exceeded"),
    UnauthorizedError: Answer(401, _INVALID, "invalid_api_key"),
    ModelNotFoundError: Answer(404, _INVALID, "model_not_found"),
    ClientGoneError: Answer(499, _INVALID, "client_closed_request"),
    SlowReaderError: Answer(499, _INVALID, "client_too_slow"),
    NotReadyError: Answer(503, _UNAVAILABLE, "model_loading"),
    LoadFailedError: Answer(503, _UNAVAILABLE, "model_load_failed", is_final=True),
    EngineBusyError: Answer(503, _UNAVAILABLE, "engine_busy"),
    QueueFullError: Answer(503, _UNAVAILABLE, "queue_full"),
    QueueTimeoutError: Answer(503, _UNAVAILABLE, "queue_timeout"),
    TooManyConnectionsError: Answer(503, _UNAVAILABLE, "too_many_connections"),
    DrainingError: Answer(503, _UNAVAILABLE, "shutting_down"),
    EngineDiedError: Answer(500, "server_error", "engine_died"),
}

INTERNAL = Answer(500, "server_error", "internal_error")
INTERNAL_MESSAGE = "An internal error occurred; the server's log has the details."


def answer_for(error: Exception) -> Answer:
    """The row of the table for this exception or its nearest ancestor."""
    if isinstance(error, HTTPException):
        return Answer(error.status_code, _INVALID)
    return next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), INTERNAL)


def envelope(error: Exception) -> ErrorReply:
    """The body of an error reply; what went wrong inside the server stays in its log."""
    answer = answer_for(error)
    message = error.detail if isinstance(error, HTTPException) else str(error)
    param = error.param if isinstance(error, ApiError) else None
    if isinstance(error, InvalidRequestError):
        param = error.field
    return ErrorReply(
        error=ErrorBody(
            message=INTERNAL_MESSAGE if answer is INTERNAL else message,
            type=answer.type,
            param=param,
            code=answer.code,
        )
    )


_ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def anthropic_envelope(error: Exception) -> AnthropicError:
    """The same in Anthropic's words, for those who speak its API."""
    status, told = answer_for(error).status, envelope(error).error
    other = "invalid_request_error" if status < 500 else "api_error"
    return AnthropicError(
        error=AnthropicErrorBody(
            type=_ANTHROPIC_TYPES.get(status, other),
            message=told.message,
            details={"error_code": told.code} if told.code else None,
        )
    )


def error_response(error: Exception, path: str = "") -> JSONResponse:
    """The whole error reply: status, envelope and the headers that steer a client's retries."""
    answer = answer_for(error)
    is_anthropic = path == _ANTHROPIC_PATH or path.startswith(f"{_ANTHROPIC_PATH}/")
    body = anthropic_envelope(error) if is_anthropic else envelope(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, ApiError) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if answer.is_final:
        headers["x-should-retry"] = "false"
    return JSONResponse(body.model_dump(), answer.status, headers)
