"""A plan carried out, without HTTP around it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from engine import GenerateRequest
from server import stream
from server.engines import EnginePool
from server.errors import SlowReaderError
from server.metrics import Metrics
from server.plan import Plan
from server.record import RequestRecord
from server.settings import Settings
from server.stream import Generation
from tests.server.fakes import Behaviour

NUM_STEPS = 100


def written(scenario: Callable[[Generation, Behaviour], Awaitable[None]]) -> None:
    """Run a scenario with a text of so many steps, over one engine."""

    async def run() -> None:
        behaviour = Behaviour(lambda request: [[5]] * NUM_STEPS)
        pool = EnginePool(Settings(model="fake"), [behaviour.spawn])
        pool.start()
        while not pool.seating.num_free:
            await asyncio.sleep(0.001)
        plan = Plan("cmpl-1", (GenerateRequest("1", (1, 2), NUM_STEPS),), 2)
        record = RequestRecord(2, time.monotonic())
        await scenario(Generation(plan, record, pool, Metrics("fake")), behaviour)
        assert pool.seating.num_free == 1 and not pool.queue
        await pool.close()

    asyncio.run(run())


def test_a_reader_who_stays_too_far_behind_loses_the_reply(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when whoever reads slowly has the server keep whatever was written for them."""
    caplog.set_level("INFO")
    monkeypatch.setattr(stream, "MOST_UNREAD", 20)

    async def scenario(generation: Generation, behaviour: Behaviour) -> None:
        pieces = generation.pieces()
        await anext(pieces)
        while not behaviour.finished:
            await asyncio.sleep(0.001)
        with pytest.raises(SlowReaderError, match="left 20 pieces"):
            async for _ in pieces:
                pass
        assert behaviour.finished[0].stats.num_steps < NUM_STEPS
        assert "cmpl-1: The client left 20 pieces" in caplog.text

    written(scenario)


def test_a_reader_who_keeps_up_has_a_reply_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when what was read long ago counts."""
    monkeypatch.setattr(stream, "MOST_UNREAD", 20)

    async def scenario(generation: Generation, behaviour: Behaviour) -> None:
        pieces = [piece async for piece in generation.pieces()]
        assert sum(len(piece.tokens) for piece in pieces) == NUM_STEPS

    written(scenario)
