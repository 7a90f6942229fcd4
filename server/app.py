"""The application: rooms wired together. A factory, so that tests bring a fake engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from engine import EngineError
from server.engines import EngineClient, EnginePool
from server.errors import ApiError, BadRequestError, error_response
from server.metrics import Metrics
from server.middleware import (
    AnswerMiddleware,
    ApiKeyMiddleware,
    BodyLimitMiddleware,
    HeadMiddleware,
    RequestIdMiddleware,
)
from server.openapi import Application
from server.paths import no_such_path
from server.routes import (
    anthropic,
    chat,
    completions,
    front,
    infill,
    load,
    models,
    operations,
    pages,
    responses,
    tokens,
)
from server.settings import Settings
from server.state import State
from server.version import VERSION

_WRITING = (chat, completions, responses, anthropic, infill)
_FAMILIES = (*_WRITING, models, operations, load, tokens, front, pages)
_ROUTES = [route for family in _FAMILIES for route in family.router.routes]


def create_app(settings: Settings, pool: EnginePool) -> FastAPI:
    """The ASGI application; its lifespan starts and ends the engines."""
    metrics = Metrics(settings.model_id)
    metrics.add_queue(lambda: pool.queue.num_running, lambda: pool.queue.num_waiting)
    for client in pool.clients:
        _show(client, metrics)
    keys = settings.keys()
    app = Application(
        bool(keys),
        ApiKeyMiddleware.OPEN,
        title="stagetree",
        version=VERSION,
        lifespan=_lifespan,
        openapi_url=None,  # pages.py has it, and a page of it without a content network
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = State(settings, pool, metrics, needs_key=bool(keys))
    for family in _FAMILIES:
        app.include_router(family.router)
    for kind in (ApiError, EngineError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    app.add_middleware(HeadMiddleware)
    if keys:
        app.add_middleware(ApiKeyMiddleware, keys=keys)
    if settings.allow_origin:  # before the key, which a browser's first question does not have
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origin,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry"],
        )
    app.add_middleware(
        AnswerMiddleware, observe=metrics.observe_answer, time=metrics.observe_duration
    )
    app.add_middleware(RequestIdMiddleware)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    pool = app.state.server.pool
    pool.start()
    try:
        yield
    finally:
        await pool.close()


def _show(client: EngineClient, metrics: Metrics) -> None:
    metrics.add_engine(
        client.number,
        is_ready=lambda: client.is_serving,
        num_seats=lambda: len(client.seats),
        usage=lambda: client.seats.usage,
    )


async def _answer(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        error = _as_bad_request(error)
    if isinstance(error, HTTPException) and error.status_code == 404 and _is_nowhere(request):
        error = no_such_path(request.method, request.url.path, _ROUTES)
    return error_response(error, request.url.path)


def _is_nowhere(request: Request) -> bool:
    """Whether no route has this path; one that has it may find nothing, too."""
    return "route" not in request.scope


def _as_bad_request(invalid: RequestValidationError) -> BadRequestError:
    """The first complaint, in one line that names the field."""
    first = invalid.errors()[0]
    if first["type"] == "json_invalid":
        return BadRequestError(f"The body is not valid JSON: {first['ctx']['error']}.")
    if first["loc"] == ("body",) and first["type"] not in ("refused", "missing"):
        return BadRequestError(
            "The body must be a JSON object, sent with `Content-Type: application/json`."
        )
    param = first.get("ctx", {}).get("param") or ".".join(map(str, first["loc"][1:])) or None
    message = first["msg"].removeprefix("Value error, ")
    return BadRequestError(f"{param}: {message}" if param else message, param=param)
