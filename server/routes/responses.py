"""`POST /v1/responses`."""

from fastapi import APIRouter, Request, Response

from server.protocol.responses import ResponsesRequest
from server.protocol.responses_reply import ResponseReply
from server.replies import Events, EventStream
from server.routes.carry import answer
from server.state import AppState
from server.translate.responses import ResponsesReply, plan_response

router = APIRouter(tags=["agents"])


@router.post(
    "/v1/responses",
    response_model=ResponseReply,
    responses={200: {"content": {EventStream.media_type: {}}}},
)
async def create_response(body: ResponsesRequest, request: Request, state: AppState) -> Response:
    """Go on with a conversation of items; with `stream`, as server-sent events."""
    return await answer(body, request, state, plan_response, ResponsesReply, "resp", Events())
