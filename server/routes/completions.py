"""`POST /v1/completions`."""

from fastapi import APIRouter, Request, Response

from server.protocol import Completion, CompletionRequest
from server.replies import EventStream
from server.routes.carry import answer
from server.state import AppState
from server.translate.completions import CompletionReply, plan_completion

router = APIRouter(tags=["completions"])


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={200: {"content": {EventStream.media_type: {}}}},
)
async def create_completion(body: CompletionRequest, request: Request, state: AppState) -> Response:
    """Complete a prompt; with `stream`, as server-sent events."""
    return await answer(body, request, state, plan_completion, CompletionReply, "cmpl")
