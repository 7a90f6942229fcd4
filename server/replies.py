"""Replies that end when the client goes: server-sent events, and work raced with a disconnect."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import INTERNAL, ClientGoneError, answer_for
from server.piece import Piece, fold
from server.tasks import beside

_log = logging.getLogger(__name__)
T = TypeVar("T")

STALL_SECONDS = 60.0
"""A client that has read nothing for so long is dropped."""
_LOOKS = 4
"""How often a stream is looked after in the time that it may be silent."""


class Translation(Protocol):
    """An API's words for a whole reply."""

    def whole(self, choices: Sequence[Piece]) -> BaseModel:
        """The reply of all choices."""


class StreamTranslation(Translation, Protocol):
    """Its words for the pieces of a reply, too."""

    def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[BaseModel]:
        """The chunks of a stream; closing it closes the generator of the pieces."""

    def failure(self, error: Exception) -> BaseModel:
        """What is told of an error after the stream has opened."""


@dataclass(frozen=True, slots=True)
class Events:
    """How an API's stream passes the time while nothing comes, and what it ends with."""

    waiting: bytes = b": waiting\n\n"
    ending: bytes = b""


CHUNKS = Events(ending=b"data: [DONE]\n\n")
"""As streams of completions are."""


async def reply_to(
    request: Request,
    pieces: AsyncGenerator[Piece],
    words: StreamTranslation,
    is_stream: bool,
    patience: float,
    events: Events = CHUNKS,
) -> Response:
    """A reply, whole or as a stream; raises ApiError or EngineError before the first piece.

    A stream that waits for longer than its patience, in seconds, has opened, and what is raised
    then is an event.
    """
    if is_stream:
        chunks = words.chunks(pieces)
        first = asyncio.ensure_future(anext(chunks))
        try:
            await until_disconnect(request.receive, asyncio.wait((first,), timeout=patience))
            if first.done():
                first.result()
        except BaseException:
            await _end(first, chunks)
            raise
        return EventStream(first, chunks, words, patience, events)
    return await whole_reply(request, pieces, words)


async def whole_reply(
    request: Request, pieces: AsyncGenerator[Piece], words: Translation
) -> Response:
    """A reply in one body; raises ApiError or EngineError."""
    async with aclosing(pieces):
        choices = await until_disconnect(request.receive, fold(pieces))
    # A long reply takes a while to write, and others are streaming on this loop.
    written = await asyncio.to_thread(_written, words, choices)
    return Response(written, media_type="application/json")


class Line:
    """What events are said into; mutable. It tells whether one is being taken, and for how long."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._changed_at = monotonic()
        self.is_sending = False

    @property
    def seconds(self) -> float:
        """For how long an event has been waiting for room, or since when there was none."""
        return monotonic() - self._changed_at

    async def say(self, event: bytes) -> None:
        """Send an event, and wait until there is room for more."""
        self.is_sending, self._changed_at = True, monotonic()
        await self._send({"type": "http.response.body", "body": event, "more_body": True})
        self.is_sending, self._changed_at = False, monotonic()


class EventStream(Response):
    """Server-sent events of a reply's chunks, ending as they should even after an error.

    `first` has been asked of `chunks` before the stream opens, so that what is refused at once is
    refused with a proper status. While nothing comes there is a sign every `patience` seconds.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: asyncio.Future[BaseModel],
        chunks: AsyncGenerator[BaseModel],
        words: StreamTranslation,
        patience: float,
        events: Events,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._first = first
        self._chunks = chunks
        self._words = words
        self._patience = patience
        self._format = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that goes ends the stream and frees the engine."""
        whose = scope.get("state", {}).get("request_id", "a stream")
        try:
            await until_disconnect(receive, self._send(send))
        except ClientGoneError:
            _log.info("%s: the client left before its stream ended", whose)
        except TimeoutError:
            _log.info("%s: the client read nothing for %g s: it is dropped", whose, STALL_SECONDS)

    async def _send(self, send: Send) -> None:
        """A client that stops reading must not hold the stream, so sending has a limit."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        line = Line(send)
        try:
            await send(start)
            async with asyncio.timeout(None) as limit, beside(self._watch(line, limit)):
                async for event in self._events():
                    await line.say(event)
        finally:
            await _end(self._first, self._chunks)
        # The engine is free by now, and yet the client must not hold its connection.
        async with asyncio.timeout(STALL_SECONDS):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, line: Line, limit: asyncio.Timeout) -> None:
        """Say that the stream waits whenever it has been silent; end it where nobody takes more.

        Once in a while, and not with every event, of which there may be hundreds a second.
        """
        with suppress(TimeoutError):
            while not (line.is_sending and line.seconds > STALL_SECONDS):
                if line.is_sending or line.seconds < self._patience:
                    await asyncio.sleep(min(self._patience, STALL_SECONDS) / _LOOKS)
                else:
                    async with asyncio.timeout(STALL_SECONDS):
                        await line.say(self._format.waiting)
        limit.reschedule(0)

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            yield _event(await self._first)
            async for chunk in self._chunks:
                yield _event(chunk)
        except StopAsyncIteration:
            pass
        except Exception as error:
            if answer_for(error) is INTERNAL:
                _log.exception("a stream failed")
            yield _event(self._words.failure(error))
        if self._format.ending:
            yield self._format.ending


async def until_disconnect(receive: Receive, work: Coroutine[None, None, T]) -> T:
    """Do the work unless the client goes first; raises ClientGoneError once it has stopped."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError("The client closed the connection.")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _written(words: Translation, choices: Sequence[Piece]) -> str:
    return words.whole(choices).model_dump_json()


async def _end(asked: asyncio.Future[BaseModel], chunks: AsyncGenerator[BaseModel]) -> None:
    """Stop asking for chunks, and close what makes them."""
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await chunks.aclose()


def _event(chunk: BaseModel) -> bytes:
    """A chunk that has a type is an event of that name."""
    kind = getattr(chunk, "type", None)
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {chunk.model_dump_json()}\n\n".encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
