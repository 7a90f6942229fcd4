"""`POST /v1/completions`."""

from fastapi import APIRouter, Request, Response

from server.openapi import events_of
from server.protocol import Completion, CompletionRequest
from server.responses import reply_to
from server.routes.carry import begin
from server.state import AppState
from server.translate.completions import CompletionReply, plan_completion

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", response_model=Completion, responses=events_of(Completion))
async def create_completion(body: CompletionRequest, request: Request, state: AppState) -> Response:
    """Complete a prompt; with `stream`, as server-sent events."""
    begun = await begin(body, request, state, plan_completion, "cmpl")
    patience = state.settings.stream_wait_seconds
    model_id = state.settings.model_id
    words = CompletionReply(body, begun.plan, begun.record, begun.tokenizer, model_id, begun.info)
    return await reply_to(request, begun.pieces, words, body.stream, patience)
