"""The whole server: the application under a uvicorn that drains before it stops."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from engine import ConfigError, EngineProcess
from server.app import create_app
from server.connections import BoundedProtocol
from server.engines import Engine, EnginePool
from server.greeting import Greeting
from server.settings import Settings

_log = logging.getLogger(__name__)
_LAST_BYTES_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """On the first signal, finish what is running while refusing the rest; on the next, stop.

    uvicorn alone would close its port at once, and clients would see refused connections where
    a 503 tells them and their load balancer to look elsewhere.
    """

    def __init__(self, config: uvicorn.Config, pool: EnginePool, grace: float) -> None:
        super().__init__(config)
        self._pool = pool
        self._grace = grace
        # The loop itself holds no task.
        self._drain: asyncio.Task[None] | None = None
        self._stop: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal has been obeyed."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal; a second one stops without waiting, a third kills."""
        if self._pool.is_draining:
            signal.signal(sig, signal.SIG_DFL)
            self._loop.call_soon_threadsafe(self._begin_stop)
        else:
            self._pool.is_draining = True
            self._loop.call_soon_threadsafe(self._begin_drain, signal.Signals(sig).name)

    def end(self) -> None:
        """Stop without being told to: there is nothing to serve with."""
        self.should_exit = True

    def _begin_drain(self, name: str) -> None:
        _log.info(
            "%s: finishing what is running, for at most %g s; once more to stop now",
            name,
            self._grace,
        )
        self._drain = self._loop.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        await self._pool.drain(self._grace)
        self.should_exit = True

    def _begin_stop(self) -> None:
        _log.info("stopping now: what runs is cut")
        self._stop = self._loop.create_task(self._stop_and_exit())

    async def _stop_and_exit(self) -> None:
        await self._pool.close()
        self.should_exit = True


def run(settings: Settings) -> None:
    """Serve in this process until a signal ends it; who started it is told where, and what.

    Raises ConfigError for an address that cannot be had, and LoadFailedError once it is known that
    the model cannot be served.
    """
    configs = settings.engine_configs()
    listener = _bind(settings.host, settings.port)
    greeting = Greeting(settings, listener.getsockname()[1])
    greeting.loads()
    spawns: list[Callable[[], Engine]] = [partial(EngineProcess, config) for config in configs]
    pool = EnginePool(
        settings,
        spawns,
        on_failure=lambda: server.end(),
        on_ready=lambda: greeting.serves(_is_chat(pool, settings)),
    )
    warn_if_open(settings)
    uvicorn_config = config_of(create_app(settings, pool), settings)
    server = DrainingServer(uvicorn_config, pool, settings.drain_seconds)
    server.run([listener])
    if pool.failure is not None:
        raise pool.failure


def _is_chat(pool: EnginePool, settings: Settings) -> bool:
    """Whether there is a template for chats."""
    templates = pool.tokenizer.get().templates
    return templates.choose(has_tools=False, override=settings.chat_template) is not None


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to serve this application."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        log_config=None,
        access_log=settings.log_level == "debug",
        timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
        timeout_keep_alive=settings.keep_alive_seconds,
    )


def warn_if_open(settings: Settings) -> None:
    """Say so where whoever reaches this machine may use it."""
    if not settings.keys() and not _is_loopback(settings.host):
        _log.warning(
            "%s is open to whoever reaches this machine: set an api_key, or listen on 127.0.0.1",
            settings.host,
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, had before the engine is started in vain."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=is_both)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port."
        ) from error
