"""`POST /v1/chat/completions`."""

import asyncio
import time

from fastapi import APIRouter, Request, Response

from server.protocol import ChatCompletion, ChatRequest
from server.record import RequestRecord
from server.responses import EventStream, reply_to
from server.state import AppState
from server.stream import Generation
from server.translate.chat import ChatReply
from server.translate.conversation import plan_chat
from server.translate.requests import Planner

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {EventStream.media_type: {}}}},
)
async def create_chat_completion(body: ChatRequest, request: Request, state: AppState) -> Response:
    """Answer the last message of a conversation; with `stream`, as server-sent events."""
    arrived_at = time.monotonic()
    state.check_model(body.model)
    state.pool.admit()
    info, tokenizer = state.pool.nearest.info, state.pool.tokenizer.get()
    planner = Planner(info, tokenizer, state.settings)
    request_id = f"chatcmpl-{request.state.request_id}"
    plan, reader = await asyncio.to_thread(plan_chat, body, request_id, planner)
    record = RequestRecord(plan.num_prompt_tokens, arrived_at, info.stages, plan.n)
    pieces = Generation(plan, record, state.pool, state.metrics).pieces()
    words = ChatReply(body, plan, reader, record, tokenizer, state.settings.model_id)
    return await reply_to(request, pieces, words, body.stream)
