"""The engine process and the handle on it: requests in, steps out, cancel, heartbeat.

    server process                                   engine process (spawned)
    EngineProcess  -- Generate, Cancel, Close -->    _serve: one request at a time
                   <-- Loading, Ready, Stepped,
                       Ended, Failed, Beat ------

msgspec messages over one ZeroMQ pair on a Unix socket, in a folder that only this user can enter.
This side imports no torch. It is the only room that knows zmq and msgspec.
"""

import asyncio
import contextlib
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import zmq
import zmq.asyncio

from engine.config import EngineConfig
from engine.errors import EngineDiedError, EngineError, InvalidRequestError, ModelLoadError
from engine.request import Finished, GenerateRequest, LoadProgress, ModelInfo, Step

if TYPE_CHECKING:
    from engine.api import Engine

_BEAT_SECONDS = 1.0
_SILENCE_SECONDS = 120.0
"""A pass may be slow, but one that takes this long is taken for a hang."""
_LAST_WORDS_MS = 50


class _Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """Anything on the wire."""


class _Generate(_Message, frozen=True):
    request: GenerateRequest


class _Cancel(_Message, frozen=True):
    request_id: str


class _Close(_Message, frozen=True):
    pass


class _Loading(_Message, frozen=True):
    progress: LoadProgress


class _Unloadable(_Message, frozen=True):
    message: str


class _Ready(_Message, frozen=True):
    info: ModelInfo


class _Stepped(_Message, frozen=True):
    step: Step


class _Ended(_Message, frozen=True):
    finished: Finished


class _Failed(_Message, frozen=True):
    request_id: str
    message: str
    is_invalid: bool


class _Beat(_Message, frozen=True):
    pass


_Order = _Generate | _Cancel | _Close
_Event = _Loading | _Unloadable | _Ready | _Stepped | _Ended | _Failed | _Beat

_encode = msgspec.msgpack.Encoder().encode
_decode_order = msgspec.msgpack.Decoder(_Order).decode
_decode_event = msgspec.msgpack.Decoder(_Event).decode


class EngineProcess:
    """A handle on one engine process: start it, wait until it is ready, generate, close it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._progress = LoadProgress("starting the engine process", 0.0)
        self._heard = 0.0
        self._running: tuple[str, asyncio.Queue[Step | Finished | EngineError]] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Spawn the process; returns at once, the weights load over there."""
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[ModelInfo] = loop.create_future()
        self._died: asyncio.Future[str] = loop.create_future()
        self._folder = tempfile.mkdtemp(prefix="stagetree-")
        address = f"ipc://{Path(self._folder) / 'engine'}"
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(
            target=_serve, args=(self._config, address), name="stagetree-engine", daemon=True
        )
        self._process.start()
        loop.add_reader(self._process.sentinel, self._on_exit)
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._watch())]

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self._progress

    async def wait_ready(self) -> ModelInfo:
        """What was loaded, once it is. Raises ModelLoadError or EngineDiedError."""
        return await asyncio.shield(self._ready)

    async def wait_died(self) -> str:
        """Why the process ended, once it has."""
        return await asyncio.shield(self._died)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Step | Finished]:
        """Run one request; no other may be running. The last item is its `Finished`.

        Closing the iterator early cancels the request and returns once the engine is free.
        Raises InvalidRequestError or EngineDiedError.
        """
        if self._died.done():
            raise EngineDiedError(self._died.result())
        if self._running is not None:
            raise EngineError("the engine process runs one request at a time")
        items: asyncio.Queue[Step | Finished | EngineError] = asyncio.Queue()
        self._running = (request.request_id, items)
        is_over = False
        try:
            await self._send(_Generate(request))
            while not is_over:
                item = await items.get()
                is_over = not isinstance(item, Step)
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            if not is_over:
                self.cancel(request.request_id)
                while isinstance(await items.get(), Step):
                    pass
            self._running = None

    def cancel(self, request_id: str) -> None:
        """End a request within one step; its stream ends with reason "cancelled". Idempotent."""
        if not self._died.done():
            self._socket.send(_encode(_Cancel(request_id)))

    async def close(self, grace: float = 5.0) -> None:
        """End the process, by force after `grace` seconds, and remove its socket."""
        if not self._died.done():
            await self._send(_Close())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait_died(), grace)
        if not self._died.done():
            self._process.kill()
            await self.wait_died()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _send(self, order: _Order) -> None:
        await self._socket.send(_encode(order))

    async def _read(self) -> None:
        while True:
            self._take(_decode_event(await self._socket.recv()))

    def _take(self, event: _Event) -> None:
        self._heard = time.monotonic()
        match event:
            case _Loading(progress):
                self._progress = progress
            case _Ready(info):
                self._ready.set_result(info)
            case _Unloadable(message):
                self._ready.set_exception(ModelLoadError(message))
            case _Stepped(step):
                self._deliver(step.request_id, step)
            case _Ended(finished):
                self._deliver(finished.request_id, finished)
            case _Failed(request_id, message, is_invalid):
                kind = InvalidRequestError if is_invalid else EngineDiedError
                self._deliver(request_id, kind(message))

    def _deliver(self, request_id: str, item: Step | Finished | EngineError) -> None:
        if self._running is not None and self._running[0] == request_id:
            self._running[1].put_nowait(item)

    async def _watch(self) -> None:
        """Kill a process that is silent for too long; its exit is then seen like any other."""
        with contextlib.suppress(EngineError):
            await self.wait_ready()
            while time.monotonic() - self._heard < _SILENCE_SECONDS:
                await asyncio.sleep(_BEAT_SECONDS)
            self._process.kill()

    def _on_exit(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._tasks.append(loop.create_task(self._bury()))

    async def _bury(self) -> None:
        """Read the process's last words, then tell everyone who waits that it is gone."""
        self._tasks[0].cancel()
        while await self._socket.poll(_LAST_WORDS_MS):
            self._take(_decode_event(await self._socket.recv()))
        self._process.join()
        reason = f"the engine process ended with exit code {self._process.exitcode}"
        if not self._ready.done():
            self._ready.set_exception(EngineDiedError(reason))
        if self._running is not None:
            self._running[1].put_nowait(EngineDiedError(reason))
        self._died.set_result(reason)


def _serve(config: EngineConfig, address: str) -> None:
    """The engine process: load, then run requests until told to close or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches both; the server decides
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.setsockopt(zmq.LINGER, 1000)
        socket.connect(address)
        _Worker(socket).run(config)


class _Worker:
    """The other end of the pair, inside the engine process."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._orders: deque[_Order] = deque()
        self._spoke = 0.0

    def run(self, config: EngineConfig) -> None:
        """Load and serve; an unexpected error ends the process, which its handle will see."""
        from engine.api import Engine  # imports torch, which only this process may

        try:
            engine = Engine.load(config, lambda progress: self._tell(_Loading(progress)))
        except EngineError as error:
            self._tell(_Unloadable(str(error)))
            return
        self._tell(_Ready(engine.info))
        while self._is_wanted():
            self._listen(_BEAT_SECONDS)
            while self._orders:
                match self._orders.popleft():
                    case _Generate(request):
                        self._generate(engine, request)
                    case _Close():
                        return

    def _generate(self, engine: "Engine", request: GenerateRequest) -> None:
        try:
            for item in engine.generate(request, lambda: self._is_cancelled(request.request_id)):
                self._tell(_Stepped(item) if isinstance(item, Step) else _Ended(item))
        except InvalidRequestError as error:
            self._tell(_Failed(request.request_id, str(error), is_invalid=True))
        except Exception as error:
            message = f"the engine failed: {type(error).__name__}: {error}"
            self._tell(_Failed(request.request_id, message, is_invalid=False))
            raise

    def _is_cancelled(self, request_id: str) -> bool:
        self._listen(0.0)
        return any(
            isinstance(order, _Close) or order == _Cancel(request_id) for order in self._orders
        )

    def _listen(self, seconds: float) -> None:
        """Take in what has been said, waiting at most so long, and show that we are alive."""
        if self._socket.poll(int(seconds * 1000)):
            with contextlib.suppress(zmq.Again):
                while True:
                    self._orders.append(_decode_order(self._socket.recv(zmq.NOBLOCK)))
        if time.monotonic() - self._spoke > _BEAT_SECONDS:
            self._tell(_Beat())

    def _is_wanted(self) -> bool:
        parent = multiprocessing.parent_process()
        return parent is None or parent.is_alive()

    def _tell(self, event: _Event) -> None:
        self._spoke = time.monotonic()
        self._socket.send(_encode(event))
