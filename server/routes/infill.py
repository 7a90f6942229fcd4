"""`POST /infill`."""

from fastapi import APIRouter, Request, Response

from server.openapi import events_of
from server.protocol import InfillChunk, InfillReplies, InfillReply, InfillRequest
from server.replies import Events
from server.routes.carry import answer
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
    return await answer(body, request, state, plan_infill, InfillWords, "infill", Events())
