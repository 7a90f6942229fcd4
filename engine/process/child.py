"""The engine process as an operating system sees it: spawned, spoken to, silent, ended."""

import asyncio
import contextlib
import pickle
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Self, cast

import zmq
import zmq.asyncio

from engine import program
from engine.code_cache import cache_root
from engine.config import EngineConfig
from engine.errors import EngineDiedError
from engine.process.messages import Event, Order, decode_event, encode
from engine.process.pulse import BEAT_SECONDS
from engine.scratch import Scratch

SILENCE_SECONDS = 15.0
"""A process that has loaded shows every second that it is alive."""
LOADING_SILENCE_SECONDS = 300.0
"""One that loads does so too, once it has begun; but a slow disk may hold up all of its threads."""
_LATE_SECONDS = 3.0
"""Whoever wakes so much later than it meant to has slept, and so may others have."""
_LAST_WORDS_SECONDS = 0.05
_PROGRAM = "engine.process.worker"
_SOCKET_NAME = "engine"


class Child:
    """A running process and our end of its pair; `folder` has the socket, and nothing else."""

    def __init__(
        self,
        process: Process,
        socket: zmq.asyncio.Socket,
        folder: Path,
        resources: contextlib.ExitStack,
    ) -> None:
        self.process = process
        self.folder = folder
        self._socket = socket
        self._resources = resources
        self._heard = time.monotonic()
        self.fault: str | None = None
        """Why it was ended from here, if it was."""

    @classmethod
    async def spawn(cls, config: EngineConfig) -> Self:
        """Start it; it loads from then on. Raises OSError or ZMQError where there is no room."""
        with contextlib.ExitStack() as resources:
            folder = resources.enter_context(_socket_folder())
            address = f"ipc://{folder}/{_SOCKET_NAME}"
            socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
            resources.callback(socket.close)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
            # Its standard input stays open until this process ends: with that it ends itself.
            environment = program.environment(cache_root(config.cache_dir), folder)
            process = await asyncio.create_subprocess_exec(
                *program.command(_PROGRAM), stdin=PIPE, env=environment
            )
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((config, address)))
            return cls(process, socket, folder, resources.pop_all())

    def send(self, order: Order) -> None:
        """Say it now or not at all: a pair without its peer would wait for one for ever.

        Raises EngineDiedError where there is none.
        """
        sent = cast("asyncio.Future[object]", self._socket.send(encode(order), zmq.NOBLOCK))
        if isinstance(error := sent.exception(), zmq.Again):
            raise EngineDiedError("the engine process has gone") from error

    async def listen(self, take: Callable[[Event], None]) -> None:
        """Hand on whatever it says, until this is cancelled."""
        while True:
            event = decode_event(await self._socket.recv())
            self._heard = time.monotonic()
            take(event)

    async def kill_when_silent(self, patience: Callable[[], float]) -> None:
        """End it once it has said nothing for so many seconds; its exit is seen like any other.

        A machine that has paused, this process too, kills nothing.
        """
        while (now := time.monotonic()) - self._heard < patience():
            await asyncio.sleep(BEAT_SECONDS)
            if time.monotonic() - now > BEAT_SECONDS + _LATE_SECONDS:
                self._heard = time.monotonic()
        self.fault = f"it said nothing for {now - self._heard:.0f} s, and was ended"
        self.kill()

    async def wait(self) -> int:
        """Its exit code, once it has ended and its last words have been heard."""
        code = await self.process.wait()
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        while time.monotonic() - self._heard < _LAST_WORDS_SECONDS:
            await asyncio.sleep(_LAST_WORDS_SECONDS)
        return code

    def kill(self) -> None:
        """End it by force."""
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            self.process.kill()

    def close(self) -> None:
        """Remove the socket and its folder; the process must have ended."""
        self._resources.close()


def _socket_folder() -> Scratch:
    """A folder with a path short enough for a Unix socket's name."""
    scratch = Scratch()
    if len(str(scratch.path)) + len(_SOCKET_NAME) + 1 <= zmq.IPC_PATH_MAX_LEN:
        return scratch
    scratch.remove()
    return Scratch(Path("/tmp"))
