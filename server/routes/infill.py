"""`POST /infill`."""

from fastapi import APIRouter, Request, Response

from server.openapi import events_of
from server.protocol import InfillChunk, InfillReplies, InfillReply, InfillRequest
from server.replies import Events, reply_to
from server.routes.carry import begin
from server.state import AppState
from server.translate.infill import InfillWords, plan_infill

router = APIRouter(tags=["completions"])


@router.post(
    "/infill",
    response_model=InfillReply | InfillReplies,
    responses=events_of(InfillChunk, InfillReply),
)
async def infill(body: InfillRequest, request: Request, state: AppState) -> Response:
    """Fill the gap between two halves of a file, as llama.vim and llama.vscode ask for it."""
    begun = await begin(body, request, state, plan_infill, "infill")
    window = begun.info.max_model_len
    words = InfillWords(body, begun.plan, begun.record, state.settings.model_id, window)
    patience = state.settings.stream_wait_seconds
    return await reply_to(request, begun.pieces, words, body.stream, patience, Events())
