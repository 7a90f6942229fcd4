"""`POST /v1/completions`."""

import asyncio
import time
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from server.dispatch import Dispatcher
from server.engine_pool import EnginePool
from server.errors import ModelNotFoundError
from server.metrics import Metrics
from server.protocol import Completion, CompletionRequest
from server.responses import EventStream, until_disconnect
from server.settings import Settings
from server.stream import CompletionStream, fold
from server.translate import plan_completion


def completions_router(
    settings: Settings, pool: EnginePool, dispatcher: Dispatcher, metrics: Metrics
) -> APIRouter:
    """The text completion endpoint."""
    router = APIRouter()

    @router.post(
        "/v1/completions",
        response_model=Completion,
        responses={200: {"content": {EventStream.media_type: {}}}},
        tags=["completions"],
    )
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Complete a prompt; with `stream`, as server-sent events."""
        arrived_at = time.monotonic()
        if body.model not in (None, settings.model_id):
            raise ModelNotFoundError(
                f"The model {body.model!r} does not exist; this server has {settings.model_id!r}.",
                param="model",
            )
        dispatcher.admit()
        serving = pool.nearest.serving
        # A long prompt takes a while to tokenise, and others are streaming on this loop.
        plan = await asyncio.to_thread(
            plan_completion,
            body,
            f"cmpl-{request.state.request_id}",
            serving.info,
            serving.tokenizer.encode,
            settings,
        )
        chunks = CompletionStream(plan, arrived_at, dispatcher, metrics).chunks()
        if body.stream:
            first = await until_disconnect(request.receive, anext(chunks))
            return EventStream(first, chunks)
        async with aclosing(chunks):
            whole = await until_disconnect(request.receive, fold(chunks))
        return Response(whole.model_dump_json(), media_type="application/json")

    return router
