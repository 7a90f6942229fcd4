"""The replies themselves, without a server around them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message

from server import replies
from server.errors import ClientGoneError
from server.piece import Piece
from server.protocol import Completion
from server.replies import CHUNKS, Events, EventStream, reply_to, until_disconnect

CHUNK = Completion(id="cmpl-1", created=1, model="m", system_fingerprint="fp", choices=[])


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_stops_reading_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a stalled reader holds the engine."""
    monkeypatch.setattr(replies, "STALL_SECONDS", 0.01)
    closed: list[bool] = []

    async def chunks() -> AsyncGenerator[Completion]:
        try:
            while True:
                yield CHUNK
        finally:
            closed.append(True)

    async def stalled(message: Message) -> None:
        if message["type"] == "http.response.body":
            await never()

    async def run() -> None:
        stream = chunks()
        first = asyncio.ensure_future(anext(stream))
        reply = EventStream(first, stream, Words(), 5, CHUNKS)
        await reply({"type": "http"}, never, stalled)

    asyncio.run(run())
    assert closed == [True]


def test_a_client_that_reads_all_but_the_end_loses_its_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a whole reply is held for ever by who does not take its last, empty part."""
    monkeypatch.setattr(replies, "STALL_SECONDS", 0.01)
    caplog.set_level("INFO")

    async def chunks() -> AsyncGenerator[Completion]:
        yield CHUNK

    async def stalled(message: Message) -> None:
        if not message.get("more_body", True):
            await never()

    async def run() -> None:
        stream = chunks()
        first = asyncio.ensure_future(anext(stream))
        reply = EventStream(first, stream, Words(), 5, CHUNKS)
        await asyncio.wait_for(reply({"type": "http"}, never, stalled), 10)

    asyncio.run(run())
    assert "it is dropped" in caplog.text


def test_work_is_over_before_its_client_is_reported_gone() -> None:
    """Red when the next turn begins while this one is still being cancelled."""
    ended: list[str] = []

    async def work() -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(0.01)
            ended.append("freed")

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def run() -> None:
        with pytest.raises(ClientGoneError):
            await until_disconnect(gone, work())
        ended.append("reported")

    asyncio.run(run())
    assert ended == ["freed", "reported"]


def test_an_error_of_the_work_is_the_callers_to_see() -> None:
    async def work() -> None:
        raise KeyError

    async def run() -> None:
        with pytest.raises(KeyError):
            await until_disconnect(never, work())

    asyncio.run(run())


class Line(BaseModel):
    """The wire of an API that this server does not have."""

    text: str


class TypedLine(Line):
    """A chunk that has a type."""

    type: str = "line"


class Words:
    """Its words."""

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Line]:
        async for piece in pieces:
            yield Line(text=piece.text)

    def failure(self, error: Exception) -> Line:
        return TypedLine(text=f"failed: {error}")

    def whole(self, choices: Sequence[Piece]) -> Line:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return Line(text="|".join(choice.text for choice in choices))


async def pieces() -> AsyncGenerator[Piece]:
    yield Piece(1, "c")
    yield Piece(0, "a")
    yield Piece(1, "d", finish_reason="stop")
    yield Piece(0, "b", finish_reason="length")


@pytest.mark.parametrize("is_stream", [False, True])
def test_another_api_is_another_translation(is_stream: bool) -> None:
    """Red when replies know the wire of one API, mix choices up, or are written on the loop."""
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        request = Request({"type": "http"}, never)
        response = await reply_to(request, pieces(), Words(), is_stream, patience=5)
        await response({"type": "http"}, never, send)

    asyncio.run(run())
    lines = [b'data: {"text":"%s"}\n\n' % text for text in (b"c", b"a", b"d", b"b")]
    stream = b"".join([*lines, b"data: [DONE]\n\n"])
    assert b"".join(sent) == (stream if is_stream else b'{"text":"ab|cd"}')


def test_an_api_says_how_its_stream_waits_fails_and_ends() -> None:
    """Red when an event of a type has no name, or an API gets another's signs and ending."""
    sent: list[bytes] = []

    async def failing() -> AsyncGenerator[Piece]:
        await asyncio.sleep(0.05)
        yield Piece(0, "a")
        raise ClientGoneError("so far")

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        request, events = Request({"type": "http"}, never), Events(b": on\n\n", b"over\n\n")
        response = await reply_to(request, failing(), Words(), True, 0.02, events)
        await response({"type": "http"}, never, send)

    asyncio.run(run())
    told = [part for part in sent if part not in (b"", b": on\n\n")]
    assert b": on\n\n" in sent
    assert told == [
        b'data: {"text":"a"}\n\n',
        b'event: line\ndata: {"text":"failed: so far","type":"line"}\n\n',
        b"over\n\n",
    ]
