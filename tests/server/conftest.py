"""Servers for the tests: real uvicorn on a real socket, with a fake engine behind."""

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.engines import EnginePool
from server.run import DrainingServer, config_of
from server.settings import Settings
from tests.chats import THINKING
from tests.server.command import NUM_SEATS, Command, save_family
from tests.server.fakes import Behaviour


@dataclass
class Reply:
    """One HTTP response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of its server-sent events, `[DONE]` as a string."""
        lines = self.body.decode().splitlines()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


class Stream:
    """A request that was sent, and its reply as far as a test cares to read it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self._response: http.client.HTTPResponse | None = None

    def response(self) -> http.client.HTTPResponse:
        """The reply, once its headers are there."""
        self._response = self._response or self.connection.getresponse()
        return self._response

    def close(self) -> None:
        """Leave, whatever is still to come."""
        if self._response is not None:
            self._response.close()
        self.connection.close()


class PromptServer(DrainingServer):
    """The server, which looks ten times as often whether it is to stop: most tests start one."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


class LiveServer:
    """A server in a thread, and the few verbs that tests speak to it with.

    It has an engine for every behaviour; `behaviour` is the first one's.
    """

    def __init__(self, *behaviours: Behaviour, **settings: Any) -> None:
        self.behaviours = behaviours
        self.behaviour = behaviours[0]
        self.settings = Settings(**{"model": "fake", "max_queue": 4, **settings})
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[Stream] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        spawns = [behaviour.spawn for behaviour in self.behaviours]
        self.pool = EnginePool(self.settings, spawns, backoff=0.05)
        self.app = create_app(self.settings, self.pool)
        config = config_of(self.app, self.settings)
        config.timeout_graceful_shutdown = 2
        self.server = PromptServer(config, self.pool, self.settings.drain_seconds)
        await self.server.serve([self._socket])

    def terminate(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(15, None)

    def join(self) -> None:
        for stream in self._open:
            stream.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
        stream = self.send(method, path, body, **headers)
        response = stream.response()
        got = {name.lower(): value for name, value in response.getheaders()}
        reply = Reply(response.status, got, response.read())
        stream.close()
        return reply

    def send(self, method: str, path: str, body: Any, **headers: str) -> "Stream":
        """Send a request and leave its reply to be read, or not."""
        stream = Stream(self.connect())
        self._open.append(stream)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        stream.connection.request(method, path, body, named)
        return stream

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, b"", **headers)

    def complete(self, **body: Any) -> Reply:
        """POST a completion of "hello", or of whatever `prompt` says."""
        sent = json.dumps({"prompt": "hello", **body}).encode()
        return self.request("POST", "/v1/completions", sent, content_type="application/json")

    def chat(self, **body: Any) -> Reply:
        """POST a chat of one message, or of whatever `messages` says."""
        sent = json.dumps({"messages": [{"role": "user", "content": "hello"}], **body}).encode()
        return self.request("POST", "/v1/chat/completions", sent, content_type="application/json")

    def open_stream(self, **body: Any) -> "Stream":
        """A streamed completion, left open."""
        sent = json.dumps({"prompt": "hello", "stream": True, **body})
        return self.send("POST", "/v1/completions", sent, content_type="application/json")

    def wait_started(self) -> "LiveServer":
        wait_until(lambda: hasattr(self, "server") and self.server.started)
        return self

    def wait_ready(self) -> "LiveServer":
        wait_until(lambda: self.get("/ready").status == 200)
        return self


def wait_until(is_true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Poll until a condition holds, or fail."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


StartServer = Callable[..., LiveServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers, each with its own behaviour, and stops them after the test."""
    servers: list[LiveServer] = []

    def start(*behaviours: Behaviour, **settings: Any) -> LiveServer:
        servers.append(LiveServer(*(behaviours or [Behaviour()]), **settings))
        return servers[-1].wait_started()

    yield start
    for server in servers:
        for behaviour in server.behaviours:
            behaviour.step_seconds = 0
        server.server.should_exit = True
    for server in servers:
        server.join()


@contextmanager
def serving(behaviour: Behaviour, **settings: Any) -> Iterator[LiveServer]:
    """A server for several tests, which has loaded its model."""
    server = LiveServer(behaviour, **settings).wait_started().wait_ready()
    yield server
    server.server.should_exit = True
    server.join()


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """One ready server with the default script, shared by a module's tests."""
    with serving(Behaviour()) as server:
        yield server


@contextmanager
def serving_chats(folder: Path, **settings: Any) -> Iterator[Command]:
    """The command serving a tiny model with a draft, a template for chats and one for gaps."""
    folder = save_family(folder)
    (folder / "target" / "chat_template.jinja").write_text(THINKING)
    config = folder / "config.yaml"  # YAML takes JSON
    config.write_text(json.dumps({"fim_template": "<P>{prefix}<S>{suffix}<M>", **settings}))
    flags = ("--draft", str(folder / "draft"), "--max-running", str(NUM_SEATS))
    command = Command(folder, *flags, "--config", str(config))
    wait_until(command.answers, seconds=60)
    wait_until(command.is_ready, seconds=120)
    yield command
    command.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """One server for all who leave it as it is."""
    with serving_chats(tmp_path_factory.mktemp("shared")) as command:
        yield command
