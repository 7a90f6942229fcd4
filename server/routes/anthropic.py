"""`POST /v1/messages` and `POST /v1/messages/count_tokens`, as Anthropic has them."""

import asyncio

from fastapi import APIRouter, Request, Response

from server.openapi import UNAVAILABLE, events_of, refused_with
from server.protocol import AnthropicError
from server.protocol.anthropic import MessagesRequest, PromptRequest
from server.protocol.anthropic_reply import EVENTS, AnthropicMessage, TokenCount
from server.replies import Events
from server.routes.carry import answer, planner_of
from server.state import AppState
from server.translate.anthropic import AnthropicReply, count_tokens, plan_message

router = APIRouter(tags=["agents"])

_EVENTS = Events(waiting=b'event: ping\ndata: {"type": "ping"}\n\n')


@router.post(
    "/v1/messages",
    response_model=AnthropicMessage,
    responses=refused_with(AnthropicError, events_of(*EVENTS)),
)
async def create_message(body: MessagesRequest, request: Request, state: AppState) -> Response:
    """Go on with a conversation of blocks; with `stream`, as server-sent events."""
    return await answer(body, request, state, plan_message, AnthropicReply, "msg", _EVENTS)


@router.post("/v1/messages/count_tokens", responses=refused_with(AnthropicError, UNAVAILABLE))
async def count_prompt(body: PromptRequest, state: AppState) -> TokenCount:
    """Count the tokens of the prompt that a conversation would be."""
    state.check_model(body.model)
    number = await asyncio.to_thread(count_tokens, body, planner_of(state))
    return TokenCount(input_tokens=number)
