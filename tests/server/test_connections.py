"""Connections that nobody uses, and bytes that are no HTTP: a client's fault is never ours."""

import json
import logging
import socket
from contextlib import ExitStack
from typing import Any

import pytest

from server import connections
from tests.server.conftest import StartServer, wait_until

REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_a_connection_that_says_nothing_or_half_of_something_is_closed(
    start_server: StartServer,
) -> None:
    """Red when whoever opens connections and says nothing has all there are."""
    server = start_server(keep_alive_seconds=1).wait_ready()
    halves = (b"", b"GET /he", REQUEST + b"Content-Length: 50\r\n\r\n{")
    with ExitStack() as open_ones:
        found = [
            open_ones.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=10)
            )
            for _ in halves
        ]
        for one, half in zip(found, halves, strict=True):
            one.sendall(half)
        for one in found:
            while one.recv(4096):  # a body that ends too soon may be told so
                pass
    wait_until(lambda: not server.server.server_state.connections)


def test_drops_of_a_request_do_not_keep_a_connection(start_server: StartServer) -> None:
    """Red when a byte now and then is as good as a request."""
    server = start_server(keep_alive_seconds=1).wait_ready()
    with socket.create_connection(("127.0.0.1", server.port)) as one:
        one.settimeout(0.1)
        told = b"never"
        for _ in range(60):
            try:
                one.sendall(b"X")
                told = one.recv(100)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                told = b""
                break
    assert told == b""


def test_who_is_one_too_many_is_told_to_come_again(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when descriptors run out, and nobody is answered at all."""
    server = start_server().wait_ready()
    wait_until(lambda: not server.server.server_state.connections)
    monkeypatch.setattr(connections, "most_connections", lambda: 3)
    with ExitStack() as open_ones:
        for _ in range(3):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_until(lambda: len(server.server.server_state.connections) == 3)
        refused = server.get("/health")
        assert refused.status == 503 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "too_many_connections"
    wait_until(lambda: not server.server.server_state.connections)
    assert server.get("/health").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"no HTTP at all\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        REQUEST + b"Content-Length: x\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nno chunk\r\n",
        REQUEST + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"pro\r\nffffffffffffffffffffff\r\n',
    ],
)
def test_what_is_no_http_is_refused_in_one_line(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """Red when a stranger's bytes are pages of traceback in the log."""
    server = start_server().wait_ready()
    with (
        caplog.at_level(logging.INFO),
        socket.create_connection(("127.0.0.1", server.port)) as one,
    ):
        one.settimeout(10)
        one.sendall(sent)
        told = b"".join(iter(lambda: one.recv(4096), b""))
        wait_until(lambda: not server.server.server_state.tasks)
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error: dict[str, Any] = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert not any(record.exc_info for record in caplog.records), caplog.text
    assert len(caplog.records) <= 2


def test_who_leaves_amid_a_body_is_one_line(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a client that breaks off is a failure of ours."""
    server = start_server().wait_ready()
    with caplog.at_level(logging.INFO):
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(REQUEST + b"Content-Length: 500\r\n\r\n{")
            wait_until(lambda: bool(server.server.server_state.tasks))
        wait_until(lambda: not server.server.server_state.tasks)
    assert not any(record.exc_info for record in caplog.records), caplog.text
    assert len(caplog.records) <= 2
