"""`POST /v1/chat/completions`."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.openapi import UNAVAILABLE, events_of
from server.protocol import AppliedTemplate, ChatChunk, ChatCompletion, ChatRequest
from server.routes.carry import answer, planner_of
from server.state import AppState
from server.translate.chat import ChatReply
from server.translate.conversation import plan_chat, write_prompt

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=events_of(ChatChunk))
async def create_chat_completion(body: ChatRequest, request: Request, state: AppState) -> Response:
    """Answer the last message of a conversation; with `stream`, as server-sent events."""
    return await answer(body, request, state, plan_chat, ChatReply, "chatcmpl")


@router.post("/apply-template", responses=UNAVAILABLE)
async def apply_template(body: ChatRequest, state: AppState) -> AppliedTemplate:
    """What the template makes of a conversation, for whoever sends it to `/v1/completions`."""
    state.check_model(body.model)
    prompt = await asyncio.to_thread(write_prompt, body, planner_of(state))
    return AppliedTemplate(prompt=prompt)
