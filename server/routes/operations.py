"""What operators and machines ask: alive, ready, which version, how it is going."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from server.engines import RETRY_AFTER, EngineClient
from server.errors import ApiError, LoadFailedError
from server.state import AppState
from server.version import VERSION

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The server process answers, whatever the engine does."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "How far it has come, or why it failed."}})
async def ready(state: AppState) -> JSONResponse:
    """200 when a completion could be served now, else 503 with phase and progress.

    They are those of the engine that serves or comes nearest to it; `engines` has each one's.
    """
    pool = state.pool
    if pool.is_draining:
        whole = _not_ready("shutting down", 1.0, "The server is shutting down.")
    else:
        whole = _told(pool.nearest)
    is_ready, is_final = whole["status"] == "ready", whole.get("phase") == "failed"
    return JSONResponse(
        {**whole, "engines": [_told(client) for client in pool.clients]},
        200 if is_ready else 503,
        {} if is_ready or is_final else {"Retry-After": str(RETRY_AFTER)},
    )


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of stagetree."""
    return {"version": VERSION}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: AppState) -> Response:
    """Prometheus' text exposition."""
    return Response(state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _told(client: EngineClient) -> dict[str, Any]:
    """What /ready tells of an engine."""
    try:
        info = client.info
    except ApiError as error:
        phase = "failed" if isinstance(error, LoadFailedError) else client.progress.phase
        return _not_ready(phase, client.progress.progress, str(error))
    return {
        "status": "ready",
        "model": info.model,
        "device": info.device,
        "precision": f"{info.dtype}, {info.precision}",
        "precisions": info.precisions,
        "seats": f"{info.num_seats}, {info.seating}",
        "passes": info.passes,
        "refusals": info.refusals,
        "is_compiling": info.is_compiling,
    }


def _not_ready(phase: str, progress: float, message: str) -> dict[str, Any]:
    return {"status": "not ready", "phase": phase, "progress": progress, "message": message}
