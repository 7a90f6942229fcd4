"""`POST /v1/chat/completions`."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.openapi import UNAVAILABLE, events_of
from server.protocol import AppliedTemplate, ChatChunk, ChatCompletion, ChatRequest
from server.responses import reply_to
from server.routes.carry import begin, planner_of
from server.state import AppState
from server.translate.chat import ChatReply
from server.translate.conversation import plan_chat, write_prompt

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=events_of(ChatChunk))
async def create_chat_completion(body: ChatRequest, request: Request, state: AppState) -> Response:
    """Answer the last message of a conversation; with `stream`, as server-sent events."""
    begun = await begin(body, request, state, plan_chat, "chatcmpl")
    model_id = state.settings.model_id
    words = ChatReply(body, begun.plan, begun.record, begun.tokenizer, model_id, begun.info)
    patience = state.settings.stream_wait_seconds
    return await reply_to(request, begun.pieces, words, body.stream, patience)


@router.post("/apply-template", responses=UNAVAILABLE)
async def apply_template(body: ChatRequest, state: AppState) -> AppliedTemplate:
    """What the template makes of a conversation, for whoever sends it to `/v1/completions`."""
    state.check_model(body.model)
    prompt = await asyncio.to_thread(write_prompt, body, planner_of(state))
    return AppliedTemplate(prompt=prompt)
