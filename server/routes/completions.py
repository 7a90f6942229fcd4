"""`POST /v1/completions`."""

import asyncio
import time

from fastapi import APIRouter, Request, Response

from server.protocol import Completion, CompletionRequest
from server.record import RequestRecord
from server.responses import EventStream, reply_to
from server.state import AppState
from server.stream import Generation
from server.translate.completions import CompletionReply, plan_completion
from server.translate.requests import Planner

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={200: {"content": {EventStream.media_type: {}}}},
)
async def create_completion(body: CompletionRequest, request: Request, state: AppState) -> Response:
    """Complete a prompt; with `stream`, as server-sent events."""
    arrived_at = time.monotonic()
    state.check_model(body.model)
    # A request that nobody will run is not worth tokenising.
    state.pool.admit()
    info, tokenizer = state.pool.nearest.info, state.pool.tokenizer.get()
    planner = Planner(info, tokenizer, state.settings)
    request_id = f"cmpl-{request.state.request_id}"
    # A long prompt takes a while to tokenise, and others are streaming on this loop.
    plan = await asyncio.to_thread(plan_completion, body, request_id, planner)
    record = RequestRecord(plan.num_prompt_tokens, arrived_at, info.stages, plan.n)
    pieces = Generation(plan, record, state.pool, state.metrics).pieces()
    words = CompletionReply(body, plan, record, tokenizer, state.settings.model_id, info)
    return await reply_to(request, pieces, words, body.stream)
