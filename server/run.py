"""The whole server: the application under a uvicorn that drains before it stops."""

import asyncio
import logging
import signal
import socket
from types import FrameType

import uvicorn

from engine import EngineProcess
from server.app import create_app
from server.dispatch import Dispatcher
from server.engine_client import EngineClient
from server.settings import Settings
from server.text import Tokenizer

_log = logging.getLogger(__name__)
_LAST_BYTES_SECONDS = 5


class DrainingServer(uvicorn.Server):
    """On the first signal, finish what is running while refusing the rest; on the next, stop.

    uvicorn alone would close its port at once, and clients would see refused connections where
    a 503 tells them and their load balancer to look elsewhere.
    """

    def __init__(self, config: uvicorn.Config, dispatcher: Dispatcher, grace: float) -> None:
        super().__init__(config)
        self._dispatcher = dispatcher
        self._grace = grace
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal has been obeyed."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal; a second one stops without waiting."""
        if self._dispatcher.is_draining:
            self.should_exit = self.force_exit = True
        else:
            self._dispatcher.is_draining = True
            self._loop.call_soon_threadsafe(self._begin_drain, signal.Signals(sig).name)

    def _begin_drain(self, name: str) -> None:
        _log.info("%s: finishing what is running, for at most %g s", name, self._grace)
        self._drain = self._loop.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        await self._dispatcher.drain(self._grace)
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Run the server in this process until a signal ends it."""
    config = settings.engine_config()
    client = EngineClient(
        spawn=lambda: EngineProcess(config), load_tokenizer=lambda: Tokenizer.load(settings.model)
    )
    app = create_app(settings, client)
    server = DrainingServer(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=settings.log_level == "debug",
            timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
        ),
        app.state.dispatcher,
        settings.drain_seconds,
    )
    server.run()
