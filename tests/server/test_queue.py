"""Who waits for a seat and who is next, over engines whose seats a test gives back one by one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import GenerateRequest, Output
from server.engines import EnginePool, QueuedRequest
from server.engines.seats import Place, Seats
from server.errors import QueueFullError, QueueTimeoutError
from server.settings import Settings
from tests.server.conftest import StartServer, wait_until
from tests.server.fakes import Behaviour, step_stats
from tests.server.test_metrics import scrape

LONG = [[5, 6]] * 100


class Turns:
    """Turns as they come; `end` gives the seat of one back."""

    def __init__(self, pool: EnginePool, stack: AsyncExitStack) -> None:
        self.came: list[str] = []
        self._pool = pool
        self._stack = stack
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def join(self, priority: int = 0) -> QueuedRequest:
        return self._stack.enter_context(self._pool.request(priority))

    async def wait(self, request: QueuedRequest, *names: str) -> None:
        """Let these sequences of a request queue."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(request, name))
        await asyncio.sleep(0.01)

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
            await self._tasks[name]
        await asyncio.sleep(0.01)

    async def _hold(self, request: QueuedRequest, name: str) -> None:
        async with self._pool.seating.turn(request, (1, 2, 3)):
            self.came.append(name)
            await self._ends[name].wait()


def over_seats(
    num_seats: int, scenario: Callable[[Turns], Awaitable[None]], **settings: object
) -> None:
    """Run a scenario with one engine of so many seats."""

    async def run() -> None:
        given = {"model": "fake", **settings}
        pool = EnginePool(Settings(**given), [Behaviour(num_seats=num_seats).spawn])
        pool.start()
        while not pool.seating.num_free:
            await asyncio.sleep(0.001)
        async with AsyncExitStack() as stack:
            await asyncio.wait_for(scenario(Turns(pool, stack)), 10)
        assert len(pool.queue) == pool.queue.num_running == pool.queue.num_waiting == 0
        await pool.close()

    asyncio.run(run())


def test_a_request_of_many_sequences_has_what_others_leave() -> None:
    """Red when sequences queue alike, whoever they are of, or seats stand empty beside a queue."""

    async def scenario(turns: Turns) -> None:
        many, few, late = turns.join(), turns.join(), turns.join()
        await turns.wait(many, "a1", "a2", "a3", "a4", "a5")
        assert turns.came == ["a1", "a2"]
        await turns.wait(few, "b1")
        await turns.wait(late, "c1", "c2")
        await turns.end("a1")
        assert turns.came[2:] == ["b1"]
        await turns.end("a2")  # nobody of either holds one, and `many` came first
        assert turns.came[3:] == ["a3"]
        await turns.end("b1")
        assert turns.came[4:] == ["c1"]
        await turns.end("c1", "a3", "a4", "c2", "a5")
        assert sorted(turns.came) == ["a1", "a2", "a3", "a4", "a5", "b1", "c1", "c2"]

    over_seats(2, scenario)


def test_a_lower_priority_goes_first() -> None:
    """Red when vLLM's field is read the other way round, or not at all."""

    async def scenario(turns: Turns) -> None:
        for name, priority in {"a": 0, "b": 5, "c": 0, "d": -1}.items():
            await turns.wait(turns.join(priority), name)
        await turns.end("a", "d", "c", "b")
        assert turns.came == ["a", "d", "c", "b"]

    over_seats(1, scenario)


def test_one_request_holds_so_many_seats_at_most() -> None:
    """Red when a setting that keeps a seat for others keeps none."""

    async def scenario(turns: Turns) -> None:
        many, few = turns.join(), turns.join()
        await turns.wait(many, "a1", "a2", "a3")
        await turns.wait(few, "b1")
        assert turns.came == ["a1", "a2", "b1"]
        await turns.end("b1")
        assert turns.came == ["a1", "a2", "b1"]
        await turns.end("a2", "a1", "a3")

    over_seats(3, scenario, max_seats_per_request=2)


def test_only_who_has_no_seat_at_all_waits_in_vain() -> None:
    """Red when a long reply loses its last choices to the limit of waiting, or nobody does."""

    async def scenario(turns: Turns) -> None:
        many, few = turns.join(), turns.join()
        await turns.wait(many, "a1", "a2")
        await asyncio.sleep(0.06)
        await turns.wait(few, "b1")
        with pytest.raises(QueueTimeoutError, match=r"waited 0\.1 s"):
            await turns._tasks["b1"]
        await asyncio.sleep(0.1)
        await turns.end("a1", "a2")
        assert turns.came == ["a1", "a2"]

    over_seats(1, scenario, queue_timeout=0.1)


def test_a_sequence_that_leaves_just_as_its_turn_comes_leaves_its_seat() -> None:
    """Red when a seat is given to nobody."""

    async def scenario(turns: Turns) -> None:
        one, other = turns.join(), turns.join()
        await turns.wait(one, "a")
        await turns.wait(other, "b")
        turns._ends["a"].set()
        while not other.num_seats:
            await asyncio.sleep(0)
        turns._tasks["b"].cancel()
        await asyncio.wait([turns._tasks["b"]])
        await turns.wait(one, "c")
        assert turns.came == ["a", "c"]
        await turns.end("c")

    over_seats(1, scenario)


def test_whoever_finds_a_seat_is_admitted_and_else_only_who_may_wait() -> None:
    """Red when one that has come and not sat down yet counts as if it waited, or not at all."""

    async def scenario(turns: Turns) -> None:
        one, other = turns.join(), turns.join()
        with pytest.raises(QueueFullError, match="0 requests are waiting"):
            turns.join()
        await turns.wait(one, "a")
        await turns.wait(other, "b")
        await turns.end("a", "b")

    over_seats(2, scenario, max_queue=0)


@given(st.lists(st.integers(0, 1), max_size=9), st.lists(st.integers(0, 1), max_size=9))
def test_what_two_prompts_begin_with_is_known(one: list[int], other: list[int]) -> None:
    """Red when a text is sent to where less of it is known."""
    pairs = zip(one, other, strict=False)
    num_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    seats = Seats(1, 100)
    sit(seats, tuple(one), 0).leave()
    assert seats.saving(tuple(other)) == (num_common if 2 * num_common >= len(other) else 0)


def sit(seats: Seats, prompt: tuple[int, ...], seat: int) -> Place:
    """A text that has got its first token where an engine had it sit."""
    place = seats.take(prompt)
    place.observe(Output("", (), step_stats(1), seat=seat), 1)
    return place


def test_where_a_text_sits_the_engine_says() -> None:
    """Red when the server's idea of an engine's seats is not the engine's."""
    seats = Seats(3, 100)
    one, two = sit(seats, (1, 1, 1), 2), sit(seats, (2, 2, 2), 0)
    waiting = seats.take((3, 3))
    assert seats.taken == [two, waiting, one] and seats.num_free == 0
    assert seats.usage == (4 + 4 + 2) / 300
    one.leave()
    assert seats.taken == [two, waiting, None] and seats.num_free == 1
    # What was read is known until another text is read there, and what is being read will be.
    assert [seats.saving(prompt) for prompt in ((1, 1), (2, 2, 5), (3, 3), (4,))] == [2, 2, 2, 0]
    sit(seats, (4,), 2)
    assert seats.saving((1, 1)) == 0 and seats.saving((4,)) == 1


def test_a_reader_that_does_not_read_holds_no_seat(start_server: StartServer) -> None:
    """Red when a text is written no faster than somebody reads it."""
    wide = Behaviour(lambda request: [[5] * 64] * 4)
    server = start_server(wide).wait_ready()
    stalled = [
        server.open_stream(n=64, max_tokens=200, logprobs=20, return_token_ids=True)
        for _ in range(2)
    ]
    wait_until(lambda: len(wide.finished) == 128)
    assert {end.reason for end in wide.finished} == {"length"}
    assert server.complete(max_tokens=4).status == 200
    assert scrape(server)["vllm:num_requests_running", ""] == 0
    for stream in stalled:
        assert b"data: [DONE]" in stream.response().read()


def test_two_clients_may_give_their_requests_the_same_id(start_server: StartServer) -> None:
    """Red when an engine is told of two sequences by one id."""
    behaviour = Behaviour(lambda request: LONG, step_seconds=0.01, num_seats=2)
    server = start_server(behaviour).wait_ready()
    sent = json.dumps({"prompt": "hello", "stream": True, "max_tokens": 20})
    headers = {"content_type": "application/json", "x_request_id": "mine"}
    streams = [server.send("POST", "/v1/completions", sent, **headers) for _ in range(2)]
    for stream in streams:
        assert b'"finish_reason":"length"' in stream.response().read()
    assert len({request.request_id for request in behaviour.requests}) == 2


def test_the_priority_of_a_body_is_that_of_its_place(start_server: StartServer) -> None:
    """Red when the field is read and goes no further."""
    behaviour = Behaviour(lambda request: LONG, step_seconds=0.01)
    server = start_server(behaviour).wait_ready()
    running = server.open_stream(max_tokens=200)
    running.response().readline()
    for seed, priority in ((1, 0), (2, -3)):
        server.open_stream(max_tokens=2, seed=seed, priority=priority)
    wait_until(lambda: scrape(server)["vllm:num_requests_waiting", ""] == 2)
    running.close()
    wait_until(lambda: len(behaviour.requests) == 3)
    assert [request.sampling.seed for request in behaviour.requests[1:]] == [2, 1]


def test_what_meets_a_dead_engine_before_its_first_token_queues_again(
    start_server: StartServer,
) -> None:
    """Red when a request that was told nothing is lost, or tried for ever."""
    behaviour = Behaviour(dies_at_step=0)
    server = start_server(behaviour).wait_ready()
    refused = server.complete()
    assert refused.status == 500 and refused.json()["error"]["code"] == "engine_died"
    assert len(behaviour.requests) == 3
    server.wait_ready()

    def script(request: GenerateRequest) -> list[list[int]]:
        if len(behaviour.requests) == 5:
            behaviour.dies_at_step = None
        return LONG

    behaviour.script = script
    assert server.complete(max_tokens=4).status == 200
    assert len(behaviour.requests) == 5


def test_each_prompt_is_cached_once_whatever_n_is(start_server: StartServer) -> None:
    """Red when more of a prompt is told to be cached than it has tokens."""
    server = start_server(Behaviour(num_seats=2)).wait_ready()
    usage = server.complete(prompt=[[1, 2, 3, 4], [5, 6, 7, 8, 9]], n=3).json()["usage"]
    assert usage["prompt_tokens"] == 9
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2 * 3
    now = scrape(server)
    assert now["vllm:prefix_cache_queries_total", ""] == 3 * 9
    assert now["vllm:prefix_cache_hits_total", ""] == 6 * 3
