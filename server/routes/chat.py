"""`POST /v1/chat/completions`."""

from fastapi import APIRouter, Request, Response

from server.protocol import ChatCompletion, ChatRequest
from server.responses import EventStream, reply_to
from server.routes.carry import begin
from server.state import AppState
from server.translate.chat import ChatReply
from server.translate.conversation import plan_chat

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={200: {"content": {EventStream.media_type: {}}}},
)
async def create_chat_completion(body: ChatRequest, request: Request, state: AppState) -> Response:
    """Answer the last message of a conversation; with `stream`, as server-sent events."""
    begun = await begin(body, request, state, plan_chat, "chatcmpl")
    model_id = state.settings.model_id
    words = ChatReply(body, begun.plan, begun.record, begun.tokenizer, model_id, begun.info)
    return await reply_to(request, begun.pieces, words, body.stream)
