"""The replies themselves, without a server around them."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from server import responses
from server.errors import ClientGoneError
from server.protocol import Completion
from server.responses import EventStream, until_disconnect

CHUNK = Completion(id="cmpl-1", created=1, model="m", choices=[])


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_stops_reading_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a stalled reader holds the engine."""
    monkeypatch.setattr(responses, "STALL_SECONDS", 0.01)
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
        await EventStream(await anext(stream), stream)({"type": "http"}, never, stalled)

    asyncio.run(run())
    assert closed == [True]


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
