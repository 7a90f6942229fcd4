"""Several engines behind one server: who runs where, and what the death of one changes."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from server.engines import MAX_DEATHS, EngineClient, EnginePool
from server.settings import Settings
from tests.server.conftest import LiveServer, StartServer, wait_until
from tests.server.fakes import Behaviour, FakeEngine
from tests.server.test_metrics import scrape

LONG = [[5, 6]] * 100
SETTINGS = Settings(model="fake")


def slow(**changes: object) -> Behaviour:
    """An engine that would talk for about two seconds."""
    behaviour = Behaviour(lambda request: LONG, step_seconds=0.02)
    for name, value in changes.items():
        setattr(behaviour, name, value)
    return behaviour


@asynccontextmanager
async def turn(pool: EnginePool) -> AsyncIterator[EngineClient]:
    """The turn of a request of one sequence."""
    with pool.request() as request:
        async with pool.seating.turn(request, (1,)) as (client, _):
            yield client


def wait_all_ready(server: LiveServer) -> None:
    wait_until(lambda: states(server) == ["ready"] * len(server.behaviours))


def states(server: LiveServer) -> list[str]:
    """The state of each engine, as /ready has it."""
    return [engine["status"] for engine in server.get("/ready").json()["engines"]]


def kill(server: LiveServer, number: int) -> None:
    """The engine process with this number dies."""
    engine = server.pool.clients[number].engine
    assert isinstance(engine, FakeEngine)
    server.loop.call_soon_threadsafe(engine.die, "exit code -9")


def num_requests(server: LiveServer) -> tuple[float, float]:
    """Those that run and those that wait, as /metrics has them."""
    now = scrape(server)
    return now["vllm:num_requests_running", ""], now["vllm:num_requests_waiting", ""]


def test_each_engine_runs_one_request_and_the_next_takes_whichever_is_free(
    start_server: StartServer,
) -> None:
    """Red when an engine stands idle beside a queue, or two requests meet on one."""
    server = start_server(slow(), slow())
    wait_all_ready(server)
    streams = [server.open_stream(max_tokens=200) for _ in range(2)]
    for stream in streams:
        stream.response().readline()
    assert [one.num_running for one in server.behaviours] == [1, 1]
    third = server.open_stream(max_tokens=200)
    wait_until(lambda: num_requests(server) == (2, 1))
    now = scrape(server)
    for number in "01":
        assert 0 < now["vllm:kv_cache_usage_perc", number] < 1
    streams[1].close()
    assert third.response().readline().startswith(b"data: ")
    assert sorted(len(one.requests) for one in server.behaviours) == [1, 2]
    assert num_requests(server) == (2, 0)


def test_the_sequences_of_a_request_share_out_the_seats_of_all_engines(
    start_server: StartServer,
) -> None:
    """Red when they run one after another, or fill one engine while another idles."""
    server = start_server(slow(num_seats=2), slow(num_seats=2))
    wait_all_ready(server)
    stream = server.open_stream(n=3, max_tokens=200)
    wait_until(lambda: num_requests(server) == (3, 0))
    assert sorted(one.num_running for one in server.behaviours) == [1, 2]
    now = scrape(server)
    assert [now["stagetree_seats", number] for number in "01"] == [2, 2]
    stream.close()
    wait_until(lambda: num_requests(server) == (0, 0))


def test_a_text_goes_on_where_its_beginning_is_known(start_server: StartServer) -> None:
    """Red when a conversation loses its rows to another while an engine is free."""
    server = start_server(Behaviour(), Behaviour())
    wait_all_ready(server)
    one, two, other = [1, 2, 3, 4, 5, 6], [1, 2, 9, 9, 9, 9], [8] * 6
    for prompt in (one, two, [*one, 7], [*one, 7, 7], [*two, 7], other, [*two, 7, 7]):
        assert server.complete(prompt=prompt).status == 200
    seen = [[request.prompt for request in each.requests] for each in server.behaviours]
    # What has only its first line in common goes to whoever has been idle for longest.
    assert seen[0] == [tuple(one), (*one, 7), (*one, 7, 7), tuple(other)]
    assert seen[1] == [tuple(two), (*two, 7), (*two, 7, 7)]


def test_a_new_process_knows_no_text(start_server: StartServer) -> None:
    """Red when a request prefers an engine for rows that died with its process."""
    server = start_server(Behaviour(), Behaviour())
    wait_all_ready(server)
    prompt = [1, 2, 3, 4]
    assert server.complete(prompt=prompt).status == 200
    kill(server, 0)
    wait_until(lambda: server.behaviours[0].num_spawned == 2)
    wait_all_ready(server)
    assert server.complete(prompt=prompt).status == 200
    assert [len(one.requests) for one in server.behaviours] == [1, 1]


def test_a_death_costs_one_engines_request_and_the_other_serves_on(
    start_server: StartServer,
) -> None:
    """Red when one crash is everybody's, or the server waits for the one that is gone."""
    server = start_server(slow(), slow())
    wait_all_ready(server)
    dying = server.open_stream(max_tokens=200)
    dying.response().readline()
    living = server.open_stream(max_tokens=60)
    living.response().readline()
    server.behaviours[0].load_seconds = 60
    kill(server, 0)
    assert b"exit code -9" in dying.response().read()
    assert server.get("/ready").status == 200
    assert states(server) == ["not ready", "ready"]
    now = scrape(server)
    assert [now["stagetree_engine_ready", number] for number in "01"] == [0, 1]
    assert now["vllm:kv_cache_usage_perc", "0"] == 0
    queued = server.open_stream(max_tokens=4)
    for stream in (living, queued):
        assert b'"finish_reason":"length"' in stream.response().read()
    assert [one.num_spawned for one in server.behaviours] == [2, 1]


def test_with_all_engines_dead_a_request_waits_for_the_first_to_return(
    start_server: StartServer,
) -> None:
    """Red when the queue is lost with the engines, or waits for one of them alone."""
    server = start_server(slow(load_seconds=0.3), slow())
    wait_all_ready(server)
    server.behaviours[1].load_seconds = 60
    running = [server.open_stream(max_tokens=200) for _ in range(2)]
    for stream in running:
        stream.response().readline()
    queued = ThreadPoolExecutor(1).submit(server.complete, max_tokens=4)
    wait_until(lambda: num_requests(server) == (2, 1))
    for number in range(2):
        kill(server, number)
    for stream in running:
        assert b"exit code -9" in stream.response().read()
    assert queued.result().status == 200
    assert [one.num_spawned for one in server.behaviours] == [2, 2]


def test_an_engine_that_cannot_be_loaded_leaves_the_others_serving(
    start_server: StartServer,
) -> None:
    """Red when one bad device stops the server, or goes unnoticed."""
    server = start_server(Behaviour(load_error="no such device"), slow()).wait_ready()
    broken, sound = server.get("/ready").json()["engines"]
    assert broken["phase"] == "failed" and "no such device" in broken["message"]
    assert (sound["status"], sound["device"]) == ("ready", "cpu")
    assert [server.complete(max_tokens=4).status for _ in range(3)] == [200] * 3
    running = server.open_stream(max_tokens=200)
    running.response().readline()
    queued = ThreadPoolExecutor(1).submit(server.complete, max_tokens=4)
    wait_until(lambda: num_requests(server) == (1, 1))
    kill(server, 1)
    assert queued.result().status == 200, "it was to wait for the new process"
    assert [one.num_spawned for one in server.behaviours] == [1, 2]


def test_a_server_has_failed_when_all_its_engines_have(start_server: StartServer) -> None:
    """Red when a request waits for an engine that will never come."""
    late = Behaviour(load_error="nor here", load_seconds=0.3)
    server = start_server(Behaviour(load_error="not here"), late)
    waiting = server.get("/ready").json()
    assert waiting["phase"] == "loading weights" and waiting["engines"][0]["phase"] == "failed"
    assert server.complete().json()["error"]["code"] == "model_loading"
    wait_until(lambda: server.get("/ready").json()["phase"] == "failed")
    assert server.complete().headers["x-should-retry"] == "false"


def test_a_client_that_leaves_the_queue_takes_no_engine_along(start_server: StartServer) -> None:
    """Red when a place is given to nobody, or a wake-up is lost with who was to have it."""
    server = start_server(slow(), slow())
    wait_all_ready(server)
    running = [server.open_stream(max_tokens=200) for _ in range(2)]
    for stream in running:
        stream.response().readline()
    leaving, staying = (server.open_stream(max_tokens=200) for _ in range(2))
    wait_until(lambda: num_requests(server) == (2, 2))
    leaving.close()
    wait_until(lambda: num_requests(server) == (2, 1))
    for stream in running:
        stream.close()
    staying.response().readline()
    last = server.open_stream(max_tokens=200)
    last.response().readline()
    assert num_requests(server) == (2, 0)
    assert sum(len(one.requests) for one in server.behaviours) == 4


def test_the_queue_is_bounded_as_with_one_engine(start_server: StartServer) -> None:
    """Red when a free engine is refused for a full queue, or a dead one counts as free."""
    server = start_server(slow(), slow(load_seconds=0.1), max_queue=0)
    wait_all_ready(server)
    running = [server.open_stream(max_tokens=200) for _ in range(2)]
    for stream in running:
        assert stream.response().status == 200
        stream.response().readline()
    assert server.complete().json()["error"]["code"] == "queue_full"
    server.behaviours[1].load_seconds = 60
    kill(server, 1)
    wait_until(lambda: num_requests(server) == (1, 0))
    assert server.complete().json()["error"]["code"] == "queue_full"


def test_the_tokenizer_is_loaded_once() -> None:
    """Red when each engine has a copy of its own, or each of its lives."""

    async def scenario() -> None:
        behaviour = Behaviour()
        pool = EnginePool(SETTINGS, [behaviour.spawn] * 2)
        pool.start()
        async with turn(pool), turn(pool):
            assert behaviour.num_tokenizers_read == 1 and pool.tokenizer.get().encode("a")
        await pool.close()

    asyncio.run(scenario())


def test_engines_that_cannot_be_loaded_end_the_server_once_there_is_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when one bad device ends a server, or a server goes on without any engine."""

    async def scenario() -> None:
        ended = asyncio.Event()
        broken = Behaviour(load_error="no such device")
        pool = EnginePool(SETTINGS, [Behaviour().spawn, broken.spawn], ended.set)
        pool.start()
        async with turn(pool):
            while pool.clients[1].refusal is None:
                await asyncio.sleep(0.01)
        assert not ended.is_set() and pool.failure is None
        await pool.close()
        pool = EnginePool(SETTINGS, [broken.spawn] * 2, ended.set)
        pool.start()
        await asyncio.wait_for(ended.wait(), 5)
        await pool.close()
        assert "no such device" in str(pool.failure)
        assert broken.num_spawned == 3

    asyncio.run(scenario())
    told = "engine 1: The model could not be loaded: no such device The others go on."
    assert caplog.messages.count(told) == 1


def test_what_has_loaded_once_is_loaded_again_after_a_passing_shortage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Red when a successor that finds too little memory, files or network once ends the server."""

    async def scenario() -> None:
        behaviour, ended = Behaviour(), asyncio.Event()
        pool = EnginePool(SETTINGS, [behaviour.spawn], ended.set, backoff=0.01)
        pool.start()
        async with turn(pool) as client:
            behaviour.load_error = "it takes 1.1 GB, and 0.9 GB are free on cuda"
            assert isinstance(client.engine, FakeEngine)
            client.engine.die("exit code -9")
        async with asyncio.timeout(5):
            while behaviour.num_spawned < 3:
                await asyncio.sleep(0.005)
        behaviour.load_error = None
        async with asyncio.timeout(5), turn(pool):
            assert not ended.is_set() and pool.failure is None
        await pool.close()

    asyncio.run(scenario())
    assert "could not be loaded again: it takes 1.1 GB" in caplog.text


def test_a_shortage_that_stays_ends_the_server_with_its_reason() -> None:
    """Red when a restart is tried for ever, or the last message says nothing of the shortage."""

    async def scenario() -> None:
        behaviour, ended = Behaviour(), asyncio.Event()
        pool = EnginePool(SETTINGS, [behaviour.spawn], ended.set, backoff=0.001)
        pool.start()
        async with turn(pool) as client:
            behaviour.load_error = "0.9 GB are free on cuda"
            assert isinstance(client.engine, FakeEngine)
            client.engine.die("exit code -9")
        await asyncio.wait_for(ended.wait(), 5)
        await pool.close()
        assert behaviour.num_spawned == MAX_DEATHS
        assert "0.9 GB are free on cuda" in str(pool.failure)

    asyncio.run(scenario())


def test_nobody_overtakes_the_head_of_the_queue() -> None:
    """Red when who comes just as an engine is given back gets it before who waits for it."""

    async def scenario() -> None:
        pool = EnginePool(SETTINGS, [Behaviour().spawn])
        order: list[str] = []

        async def use(name: str) -> None:
            async with turn(pool):
                order.append(name)

        pool.start()
        async with turn(pool):
            waiting = asyncio.create_task(use("waiting"))
            await asyncio.sleep(0)
        await use("late")
        await waiting
        await pool.close()
        assert order == ["waiting", "late"]

    asyncio.run(scenario())


def test_draining_waits_for_every_engine(start_server: StartServer) -> None:
    """Red when the first to finish ends the server under the others."""
    server = start_server(slow(), slow())
    wait_all_ready(server)
    short, long = (server.open_stream(max_tokens=size) for size in (10, 80))
    for stream in (short, long):
        stream.response().readline()
    server.terminate()
    assert server.complete().json()["error"]["code"] == "shutting_down"
    for stream in (short, long):
        assert b'"finish_reason":"length"' in stream.response().read()
    server.join()


def test_draining_cuts_all_engines_short_at_the_end_of_its_grace(
    start_server: StartServer,
) -> None:
    """Red when a process is left behind."""
    server = start_server(slow(), slow(), drain_seconds=0.2)
    wait_all_ready(server)
    streams = [server.open_stream(max_tokens=200) for _ in range(2)]
    for stream in streams:
        stream.response().readline()
    server.terminate()
    for stream in streams:
        *_, last, done, _ = stream.response().read().decode().split("\n\n")
        assert json.loads(last[6:])["error"]["code"] == "shutting_down" and done == "data: [DONE]"
    server.join()
