"""The engines that this server may use: processes kept alive, and who has which of them when.

An engine process (`contract.py` says what is asked of one) is spawned, watched and replaced by an
`EngineClient`, and the clients of all devices stand in one `EnginePool`. Requests queue there for
the seats of the engines, each of which is room for one text.
"""

from server.engines.client import MAX_DEATHS, RETRY_AFTER, EngineClient
from server.engines.contract import Engine
from server.engines.pool import EnginePool
from server.engines.queue import QueuedRequest
from server.engines.seats import Place

__all__ = [
    "MAX_DEATHS",
    "RETRY_AFTER",
    "Engine",
    "EngineClient",
    "EnginePool",
    "Place",
    "QueuedRequest",
]
