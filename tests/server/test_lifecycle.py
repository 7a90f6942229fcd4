"""Loading, queueing, leaving, crashing, draining: what clients see of each."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from tests.server.conftest import LiveServer, Reply, StartServer, wait_until
from tests.server.fakes import Behaviour, FakeEngine, blocks


def slow(seconds: float = 0.02, **changes: object) -> Behaviour:
    """An engine that would talk for about two seconds."""
    behaviour = Behaviour(lambda request: blocks("ab " * 100), step_seconds=seconds)
    for name, value in changes.items():
        setattr(behaviour, name, value)
    return behaviour


def in_background(work: Callable[[], Reply]) -> "Future[Reply]":
    return ThreadPoolExecutor(1).submit(work)


def test_the_port_opens_at_once_and_says_how_far_loading_is(start_server: StartServer) -> None:
    """Red when loading is silent, or looks like a crash."""
    server = start_server(Behaviour(load_seconds=0.4))
    assert server.get("/health").status == 200
    waiting = server.get("/ready")
    assert waiting.status == 503 and waiting.headers["retry-after"]
    assert (waiting.json()["phase"], waiting.json()["progress"]) == ("loading weights", 0.5)
    refused = server.complete()
    assert refused.status == 503 and refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "model_loading"
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] is None
    server.wait_ready()
    ready = server.get("/ready").json()
    assert ready["passes"] == {"target": "compiled", "draft": "eager"}
    assert ready["is_compiling"] is True
    assert ready["precision"] == "float32, as asked for"
    assert ready["seats"] == "1, as configured"
    assert ready["refusals"] == {"draft": "what was compiled is wrong"}
    assert server.complete().status == 200


def test_the_log_tells_how_many_seats_there_are_and_why(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when nobody learns how many texts are written at once."""
    caplog.set_level(logging.INFO)
    start_server(Behaviour(num_seats=3)).wait_ready()
    assert any(told.endswith("; seats: 3, as configured") for told in caplog.messages)


def test_the_log_tells_when_passes_are_run_in_another_way(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when nobody learns that what was compiled meanwhile is in use."""
    caplog.set_level(logging.INFO)
    server = start_server(Behaviour()).wait_ready()
    forms = "target compiled, draft eager: what was compiled is wrong"
    before = f"engine 0: passes: {forms}; faster ones are being made"
    wait_until(lambda: before in caplog.messages)
    engine = server.pool.clients[0].engine
    assert isinstance(engine, FakeEngine)
    passes = {"target": "compiled", "draft": "compiled"}
    engine.info = replace(engine.info, passes=passes, is_compiling=False, refusals={})
    after = "engine 0: passes: target compiled, draft compiled"
    wait_until(lambda: after in caplog.messages)
    assert caplog.messages.count(before) == 1


def test_a_model_that_cannot_be_loaded_is_told_and_not_tried_again(
    start_server: StartServer,
) -> None:
    """Red when a hopeless load is retried, by us or by the client."""
    server = start_server(Behaviour(load_error="no such model: x"))
    wait_until(lambda: server.get("/ready").json()["phase"] == "failed")
    assert "no such model: x" in server.get("/ready").json()["message"]
    refused = server.complete()
    assert refused.status == 503 and refused.headers["x-should-retry"] == "false"
    assert "no such model: x" in refused.json()["error"]["message"]
    assert server.behaviour.num_spawned == 1 and server.get("/health").status == 200


def test_an_engine_that_always_dies_is_given_up(start_server: StartServer) -> None:
    """Red when a crash loop goes on for ever."""
    server = start_server(Behaviour(dies_loading=True))
    wait_until(lambda: server.get("/ready").json()["phase"] == "failed")
    assert "died 5 times" in server.get("/ready").json()["message"]
    assert server.behaviour.num_spawned == 5


def test_requests_are_served_in_the_order_they_came(start_server: StartServer) -> None:
    """Red when a later request overtakes."""
    server = start_server(slow(0.005)).wait_ready()
    replies = []
    for seed in range(4):
        replies.append(in_background(partial(server.complete, seed=seed)))
        wait_until(lambda: num_inside(server) + len(server.behaviour.finished) > len(replies) - 1)
    assert [reply.result().status for reply in replies] == [200] * 4
    assert [request.sampling.seed for request in server.behaviour.requests] == [0, 1, 2, 3]


def test_a_full_queue_refuses_and_an_impatient_place_in_it_expires(
    start_server: StartServer,
) -> None:
    """Red when the queue grows without bound or waits without end."""
    server = start_server(slow(), max_queue=1, queue_timeout=0.3).wait_ready()
    running = server.open_stream(max_tokens=200)
    running.response().readline()
    waiting = in_background(lambda: server.complete())
    wait_until(lambda: num_inside(server) == 2)
    full = server.complete(stream=True)
    assert full.status == 503 and full.headers["retry-after"]
    assert full.json()["error"]["code"] == "queue_full"
    assert waiting.result().status == 503
    assert waiting.result().json()["error"]["code"] == "queue_timeout"
    running.close()


def test_a_client_that_leaves_its_stream_frees_the_engine(start_server: StartServer) -> None:
    """Red when a stream outlives its reader."""
    server = start_server(slow()).wait_ready()
    stream = server.open_stream(max_tokens=200)
    assert stream.response().readline().startswith(b"data: ")
    stream.close()
    assert_freed_early(server)


def test_a_client_that_leaves_a_whole_reply_frees_the_engine(start_server: StartServer) -> None:
    """Red when only streams notice that their client has gone."""
    server = start_server(slow()).wait_ready()
    whole = server.open_stream(max_tokens=200, stream=False)
    wait_until(lambda: server.behaviour.num_running == 1)
    whole.close()
    assert_freed_early(server)


def test_a_client_that_leaves_the_queue_is_never_run(start_server: StartServer) -> None:
    """Red when a request is run for nobody."""
    server = start_server(slow()).wait_ready()
    running = server.open_stream(max_tokens=60)
    running.response().readline()
    waiting = server.open_stream()
    wait_until(lambda: num_inside(server) == 2)
    waiting.close()
    wait_until(lambda: num_inside(server) == 1)
    running.response().read()
    assert len(server.behaviour.requests) == 1


def test_a_crash_fails_the_running_request_only(start_server: StartServer) -> None:
    """Red when a crash takes the queue with it, or the next request meets the dead process."""
    behaviour = slow(dies_at_step=10, load_seconds=0.1)
    server = start_server(behaviour).wait_ready()
    running = in_background(lambda: server.complete(stream=True, max_tokens=200))
    wait_until(lambda: behaviour.num_running == 1)
    queued = in_background(lambda: server.complete(max_tokens=5))
    wait_until(lambda: num_inside(server) == 2)
    *_, last, done = running.result().events()
    assert done == "[DONE]" and last["error"]["code"] == "engine_died"
    assert "exit code -11" in last["error"]["message"]
    assert queued.result().status == 200
    assert behaviour.num_spawned == 2


def test_a_crash_under_a_whole_reply_is_a_readable_500(start_server: StartServer) -> None:
    server = start_server(slow(0.001, dies_at_step=3)).wait_ready()
    reply = server.complete(max_tokens=50)
    assert reply.status == 500 and reply.json()["error"]["code"] == "engine_died"


def test_an_idle_crash_is_noticed_and_mended(start_server: StartServer) -> None:
    """Red when a death is only seen by the request that meets it."""
    server = start_server(slow(0.0)).wait_ready()
    engine = server.pool.nearest.engine
    assert isinstance(engine, FakeEngine)
    server.loop.call_soon_threadsafe(engine.die, "killed")
    wait_until(lambda: server.behaviour.num_spawned == 2)
    server.wait_ready()
    assert server.complete().status == 200


def test_draining_finishes_what_runs_and_refuses_the_rest(start_server: StartServer) -> None:
    """Red when SIGTERM cuts a reply short or closes the port on new clients."""
    server = start_server(slow(0.01)).wait_ready()
    running = in_background(lambda: server.complete(stream=True, max_tokens=60))
    wait_until(lambda: server.behaviour.num_running == 1)
    server.terminate()
    refused = server.complete()
    assert refused.status == 503 and refused.json()["error"]["code"] == "shutting_down"
    assert server.get("/ready").json()["phase"] == "shutting down"
    assert server.get("/health").status == 200
    *_, last, done = running.result().events()
    assert done == "[DONE]" and last["choices"][0]["finish_reason"] == "length"
    server.join()


def test_draining_cuts_short_what_outlives_the_grace_period(start_server: StartServer) -> None:
    """Red when one long reply can hold up a shutdown."""
    server = start_server(slow(), drain_seconds=0.2).wait_ready()
    running = in_background(lambda: server.complete(stream=True, max_tokens=200))
    wait_until(lambda: server.behaviour.num_running == 1)
    queued = in_background(lambda: server.complete())
    wait_until(lambda: num_inside(server) == 2)
    began = time.monotonic()
    server.terminate()
    *_, last, done = running.result().events()
    assert done == "[DONE]" and last["error"]["code"] == "shutting_down"
    assert queued.result().status == 503
    server.join()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("path", ["/", "/version"])
def test_the_signposts_tell_the_version(live: LiveServer, path: str) -> None:
    assert live.get(path).json()["version"]


def num_inside(server: LiveServer) -> int:
    """Requests that run or wait, as /metrics has them."""
    text = server.get("/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_")]
    return int(sum(float(line.split()[-1]) for line in lines))


def assert_freed_early(server: LiveServer) -> None:
    wait_until(lambda: server.behaviour.num_running == 0 and bool(server.behaviour.finished))
    assert server.behaviour.finished[-1].stats.num_steps < 50
    assert num_inside(server) == 0
    server.behaviour.step_seconds = 0
    assert server.complete().status == 200


def test_no_thread_is_left_behind(start_server: StartServer) -> None:
    server = start_server().wait_ready()
    server.terminate()
    server.join()
    assert server._thread not in threading.enumerate()
