"""What every request passes through: its id, the count of answers, its size, HEAD, the key."""

import hashlib
import json
import logging
import secrets
import string
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import UnauthorizedError, error_response

_log = logging.getLogger(__name__)
_ID_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_.:")
_LONGEST_ID = 128
_LONGEST_REASON = 300
_MOST_ITEMS, _MOST_LISTS = 2**19 + 2**16, 2**16
"""Of a body: to parse many small values holds everybody up for longer than to read a long text."""


class RequestIdMiddleware:
    """Gives each request an id, or keeps its `x-request-id`; the response carries it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request under its id."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        is_usable = 0 < len(given) <= _LONGEST_ID and _ID_CHARACTERS.issuperset(given)
        request_id = given if is_usable else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class AnswerMiddleware:
    """Counts every answer by its route, method and status; logs refusals with id and reason."""

    _METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"))

    def __init__(
        self,
        app: ASGIApp,
        observe: Callable[[str, str, int], None],
        time: Callable[[str, str, float], None],
    ) -> None:
        self._app = app
        self._observe = observe
        self._time = time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request and look at how it is answered; what nobody caught is answered here."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, is_told, arrived_at = None, False, monotonic()

        async def send_seen(message: Message) -> None:
            nonlocal status, is_told
            if message["type"] == "http.response.start":
                status = message["status"]
                self._observe(*self._names(scope), status)
            elif not is_told:
                is_told = True
                self._tell(scope, status or 0, message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        except Exception as error:
            if status is None:
                await error_response(error, scope["path"])(scope, receive, send_seen)
            raise  # to be logged
        finally:
            self._time(*self._names(scope), monotonic() - arrived_at)

    def _names(self, scope: Scope) -> tuple[str, str]:
        """The path and the method; those that strangers make up are one series, and no line."""
        handler = getattr(scope.get("route"), "path", "none")
        return handler, scope["method"] if scope["method"] in self._METHODS else "none"

    def _tell(self, scope: Scope, status: int, body: bytes) -> None:
        handler, method = self._names(scope)
        if status >= 400 and handler != "/ready" and (handler, status) != ("none", 404):
            told = (scope["state"]["request_id"], method, handler, status, _reason(body))
            _log.info("%s: %s %s was answered %d: %s", *told)


def _reason(body: bytes) -> str:
    """What a refusal says, in one line; if it has an envelope."""
    try:
        told = json.loads(body)["error"]["message"]
    except (ValueError, TypeError, KeyError):
        return "no reason"
    return " ".join(str(told).split())[:_LONGEST_REASON]


class BodyLimitMiddleware:
    """Refuses bodies over `max_bytes`, or of too many parts, with 413: by header or as they arrive.

    Starlette's own middleware answers in plain text, which is not OpenAI's envelope.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request with its body counted."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            error = self._too_large()
            return await error_response(error, scope["path"])(scope, receive, send)
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        num_bytes = num_items = num_lists = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes, num_items, num_lists
            message = await receive()
            body = message.get("body", b"")
            num_bytes += len(body)
            num_items += body.count(b",")
            num_lists += body.count(b"[") + body.count(b"{")
            if num_bytes > self._max_bytes:
                raise self._too_large()
            if num_items > _MOST_ITEMS or num_lists > _MOST_LISTS:
                raise HTTPException(
                    413, f"The body has more than {_MOST_ITEMS} items or {_MOST_LISTS} lists."
                )
            return message

        return receive_counted

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body is larger than {self._max_bytes} bytes.")


class ApiKeyMiddleware:
    """Asks for one of the keys, everywhere but where machines look and people read."""

    _PROBES = ("/", "/health", "/ping", "/ready", "/version", "/metrics", "/load")
    _PAGES = ("/openapi.json", "/docs")
    OPEN = frozenset((*_PROBES, *_PAGES))
    """Paths that need no key."""
    # Of the page that asks for the key.
    _FILES = "/page/"

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request, or answer 401."""
        if scope["type"] == "http" and not self._is_open(scope["path"]):
            given = [*_given_keys(Headers(scope=scope))]
            # Every one is compared, however early one fits.
            fitting = [secrets.compare_digest(one, key) for one in given for key in self._keys]
            if any(fitting):
                one = given[fitting.index(True) // len(self._keys)]
                scope.setdefault("state", {})["key_digest"] = hashlib.sha256(one).hexdigest()
            else:
                error = UnauthorizedError(
                    "The API key is missing or wrong; send `Authorization: Bearer KEY`, "
                    "or `X-Api-Key: KEY`."
                )
                return await error_response(error, scope["path"])(scope, receive, send)
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.OPEN or path.startswith(self._FILES)


def _given_keys(headers: Headers) -> Iterator[bytes]:
    """The keys that a request brings: OpenAI's clients one way, llama-server's also another."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield key.strip().encode("latin-1")
    if "x-api-key" in headers:
        yield headers["x-api-key"].encode("latin-1")


class HeadMiddleware:
    """Answers HEAD as GET without its body: what probes and proxies ask."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request as a GET, whose body is left out."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)

        as_get = {**scope, "method": "GET"}

        async def send_head(message: Message) -> None:
            scope["route"] = as_get.get("route")  # where the count of answers looks for it
            await send({**message, "body": b""} if "body" in message else message)

        await self._app(as_get, receive, send_head)
