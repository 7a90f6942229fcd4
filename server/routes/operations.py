"""What operators and machines ask: alive, ready, which version, how it is going."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from server.dispatch import Dispatcher
from server.engine_client import RETRY_AFTER, EngineClient
from server.errors import ApiError, LoadFailedError
from server.metrics import Metrics
from server.settings import Settings
from server.version import VERSION


def operations_router(
    settings: Settings, client: EngineClient, dispatcher: Dispatcher, metrics: Metrics
) -> APIRouter:
    """Probes, version, metrics, and a signpost at the root."""
    router = APIRouter(tags=["operations"])

    @router.get("/")
    async def signpost() -> dict[str, str]:
        """What this is and where to go."""
        return {
            "name": "stagetree",
            "version": VERSION,
            "model": settings.model_id,
            "completions": "/v1/completions",
            "models": "/v1/models",
            "ready": "/ready",
            "metrics": "/metrics",
            "api": "/openapi.json",
        }

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The server process answers, whatever the engine does."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """200 when a completion could be served now, else 503 with phase and progress."""
        if dispatcher.is_draining:
            return _not_ready("shutting down", 1.0, "The server is shutting down.")
        try:
            info = client.serving.info
            return JSONResponse(
                {
                    "status": "ready",
                    "model": info.model,
                    "passes": info.passes,
                    "is_compiling": info.is_compiling,
                }
            )
        except LoadFailedError as error:
            return _not_ready("failed", client.progress.progress, str(error), retries=False)
        except ApiError as error:
            return _not_ready(client.progress.phase, client.progress.progress, str(error))

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The version of stagetree."""
        return {"version": VERSION}

    @router.get("/metrics")
    async def prometheus() -> Response:
        """Prometheus' text exposition."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


def _not_ready(phase: str, progress: float, message: str, retries: bool = True) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER)} if retries else {}
    body = {"status": "not ready", "phase": phase, "progress": progress, "message": message}
    return JSONResponse(body, 503, headers)
