"""The handle on one engine process: what a server holds. Imports no torch."""

import asyncio
import contextlib
import pickle
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import zmq
import zmq.asyncio

from engine import program
from engine.code_cache import cache_root
from engine.config import EngineConfig
from engine.errors import EngineDiedError, EngineError, InvalidRequestError, ModelLoadError
from engine.process.messages import (
    Cancel,
    Close,
    Ended,
    Event,
    Failed,
    Generate,
    Loading,
    Order,
    ReadTokenizer,
    Ready,
    Stepped,
    TokenizerRead,
    Unloadable,
    decode_event,
    encode,
)
from engine.process.worker import BEAT_SECONDS
from engine.request import (
    Finished,
    GenerateRequest,
    LoadProgress,
    ModelInfo,
    Output,
    TokenizerState,
)
from engine.scratch import Scratch

_SILENCE_SECONDS = 120.0
"""A pass may be slow, but one that takes this long is taken for a hang."""
_LAST_WORDS_SECONDS = 0.05
_PROGRAM = "engine.process.worker"
_SOCKET_NAME = "engine"


class EngineProcess:
    """A handle on one engine process: start it, wait until it is ready, generate, close it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._progress = LoadProgress("starting the engine process", 0.0)
        self._info: ModelInfo | None = None
        self._heard = 0.0
        self._running: tuple[str, asyncio.Queue[Output | Finished | EngineError]] | None = None
        self._tokenizer: asyncio.Future[TokenizerState] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._resources = contextlib.ExitStack()

    async def start(self) -> None:
        """Spawn the process; returns at once, the weights load over there.

        Raises EngineDiedError where there is no room for it.
        """
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[ModelInfo] = loop.create_future()
        self._died: asyncio.Future[str] = loop.create_future()
        try:
            await self._spawn()
        except (OSError, zmq.ZMQError) as error:
            self._died.set_result(f"the engine process could not be started: {error}")
            raise EngineDiedError(self._died.result()) from error
        self._tasks = [loop.create_task(work()) for work in (self._read, self._watch, self._bury)]

    async def _spawn(self) -> None:
        self._folder = self._resources.enter_context(_socket_folder())
        address = f"ipc://{self._folder}/{_SOCKET_NAME}"
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._resources.callback(self._socket.close)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        # Its standard input stays open until this process ends, and with that it ends itself.
        environment = program.environment(cache_root(self._config.cache_dir), self._folder)
        self._process = await asyncio.create_subprocess_exec(
            *program.command(_PROGRAM), stdin=PIPE, env=environment
        )
        assert self._process.stdin is not None
        self._process.stdin.write(pickle.dumps((self._config, address)))

    @property
    def progress(self) -> LoadProgress:
        """How far loading has come."""
        return self._progress

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded, as last heard; None before it is ready."""
        return self._info

    async def wait_ready(self) -> ModelInfo:
        """What was loaded, once it is. Raises ModelLoadError or EngineDiedError."""
        return await asyncio.shield(self._ready)

    async def wait_died(self) -> str:
        """Why the process ended, once it has."""
        return await asyncio.shield(self._died)

    async def read_tokenizer(self) -> TokenizerState:
        """The loaded model's tokenizer. Raises ModelLoadError or EngineDiedError."""
        self._tokenizer = asyncio.get_running_loop().create_future()
        self._send(ReadTokenizer())
        return await self._tokenizer

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Output | Finished]:
        """Run one request; no other may be running. The last item is its `Finished`.

        Closing the iterator early cancels the request and returns once the engine is free.
        Raises InvalidRequestError or EngineDiedError.
        """
        if self._died.done():
            raise EngineDiedError(self._died.result())
        if self._running is not None:
            raise EngineError("the engine process runs one request at a time")
        self._send(Generate(request))
        items: asyncio.Queue[Output | Finished | EngineError] = asyncio.Queue()
        self._running = (request.request_id, items)
        is_over = False
        try:
            while not is_over:
                item = await items.get()
                is_over = not isinstance(item, Output)
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            try:
                if not is_over:
                    self.cancel(request.request_id)
                    while isinstance(await items.get(), Output):
                        pass
            finally:
                self._running = None

    def cancel(self, request_id: str) -> None:
        """End a request within one step; its stream ends with reason "cancelled". Idempotent."""
        with contextlib.suppress(EngineDiedError):
            self._send(Cancel(request_id))

    async def close(self, grace: float = 5.0) -> None:
        """End the process, if there is one, by force after `grace` seconds; remove its socket."""
        if self._tasks:
            await self._end(grace)
        self._resources.close()

    async def _end(self, grace: float) -> None:
        # A process that is still loading does not listen, and has nothing to finish.
        if self._ready.done() and not self._died.done():
            with contextlib.suppress(TimeoutError, EngineDiedError):
                self._send(Close())
                await asyncio.wait_for(self.wait_died(), grace)
        if not self._died.done():
            _kill(self._process)
            await self.wait_died()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, order: Order) -> None:
        """Say it now or not at all: a pair without its peer would wait for one for ever."""
        sent = cast("asyncio.Future[object]", self._socket.send(encode(order), zmq.NOBLOCK))
        if isinstance(error := sent.exception(), zmq.Again):
            raise EngineDiedError("the engine process has gone") from error

    async def _read(self) -> None:
        while True:
            self._take(decode_event(await self._socket.recv()))

    def _take(self, event: Event) -> None:
        self._heard = time.monotonic()
        match event:
            case Loading(progress):
                self._progress = progress
            case Ready(info):
                self._info = info
                if not self._ready.done():
                    self._ready.set_result(info)
            case Unloadable(message, traceback):
                unloadable = ModelLoadError(message)
                unloadable.add_note(traceback)
                self._ready.set_exception(unloadable)
            case TokenizerRead(state, message):
                self._take_tokenizer(state, message)
            case Stepped(step):
                self._deliver(step.request_id, step)
            case Ended(finished):
                self._deliver(finished.request_id, finished)
            case Failed(request_id, message, is_invalid):
                kind = InvalidRequestError if is_invalid else EngineDiedError
                self._deliver(request_id, kind(message))

    def _take_tokenizer(self, state: TokenizerState | None, message: str) -> None:
        if self._tokenizer is None or self._tokenizer.done():
            return
        if state is None:
            self._tokenizer.set_exception(ModelLoadError(message))
        else:
            self._tokenizer.set_result(state)

    def _deliver(self, request_id: str, item: Output | Finished | EngineError) -> None:
        if self._running is not None and self._running[0] == request_id:
            self._running[1].put_nowait(item)

    async def _watch(self) -> None:
        """Kill a process that is silent for too long; its exit is then seen like any other."""
        with contextlib.suppress(EngineError):
            await self.wait_ready()
            while time.monotonic() - self._heard < _SILENCE_SECONDS:
                await asyncio.sleep(BEAT_SECONDS)
            _kill(self._process)

    async def _bury(self) -> None:
        """Read the process's last words, then tell everyone who waits that it is gone."""
        code = await self._process.wait()
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        while time.monotonic() - self._heard < _LAST_WORDS_SECONDS:
            await asyncio.sleep(_LAST_WORDS_SECONDS)
        reason = f"the engine process ended with exit code {code}"
        # What ends by itself while it loads would do so again; what was killed may not be.
        died = EngineDiedError(reason)
        if not self._ready.done():
            self._ready.set_exception(ModelLoadError(reason) if code > 0 else died)
        if self._tokenizer is not None and not self._tokenizer.done():
            self._tokenizer.set_exception(died)
        if self._running is not None:
            self._running[1].put_nowait(died)
        self._died.set_result(reason)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.kill()


def _socket_folder() -> Scratch:
    """A folder with a path short enough for a Unix socket's name."""
    scratch = Scratch()
    if len(str(scratch.path)) + len(_SOCKET_NAME) + 1 <= zmq.IPC_PATH_MAX_LEN:
        return scratch
    scratch.remove()
    return Scratch(Path("/tmp"))
