"""Connections below HTTP: how long they stay open, how many there are, and what is no HTTP."""

import asyncio
import resource
from typing import Any

import h11
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import TooManyConnectionsError, error_response

_OTHERS = 64
"""File descriptors that are not connections."""
_RETRY_AFTER = 1


def most_connections() -> int:
    """So many as there are file descriptors for; without one nobody could be answered at all."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**16 if allowed == resource.RLIM_INFINITY else max(1, allowed - _OTHERS)


class BoundedProtocol(H11Protocol):
    """uvicorn's, which waits for a request as long as it keeps a connection that had one.

    A request's first line and headers are to come within that time; while its body comes no pause
    may be longer. uvicorn alone would wait for ever, and who comes then would find no descriptor.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._due: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait, or refuse who is one too many."""
        super().connection_made(transport)
        if len(self.connections) <= (most := most_connections()):
            self._wait()
        else:
            told = f"There are {most} connections, which are the most that this server can have."
            self._answer(TooManyConnectionsError(told, retry_after=_RETRY_AFTER))

    def data_received(self, data: bytes) -> None:
        """Take in what comes, and wait for what must follow."""
        super().data_received(data)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self._due = None
        if not is_answering or self.conn.their_state is h11.SEND_BODY:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in our words, unless an answer has begun, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        has_begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        self._answer(None if has_begun else HTTPException(400, msg))

    def _wait(self) -> None:
        """Close when it is due, unless what is awaited has come by then."""
        if self.transport.is_closing():
            return
        self._due = self._due or self.loop.time() + self.timeout_keep_alive
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_at(self._due, self.transport.close)

    def _answer(self, error: Exception | None) -> None:
        """Close, with an answer that no route has made."""
        if error is not None:
            reply = error_response(error)
            lines = [f"HTTP/1.1 {reply.status_code} Refused".encode(), b"connection: close"]
            lines += [name + b": " + value for name, value in reply.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(reply.body)]))
        self.transport.close()
