"""`POST /v1/responses`."""

from fastapi import APIRouter, Request, Response

from server.openapi import events_of
from server.protocol.responses import ResponsesRequest
from server.protocol.responses_events import EVENTS
from server.protocol.responses_reply import ResponseReply
from server.replies import Events
from server.routes.carry import answer
from server.state import AppState
from server.translate.responses import ResponsesReply, plan_response

router = APIRouter(tags=["agents"])


@router.post("/v1/responses", response_model=ResponseReply, responses=events_of(*EVENTS))
async def create_response(body: ResponsesRequest, request: Request, state: AppState) -> Response:
    """Go on with a conversation of items; with `stream`, as server-sent events."""
    return await answer(body, request, state, plan_response, ResponsesReply, "resp", Events())
