"""Responses: a body becomes a chat, and a reply items, whole or as events."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Literal

from pydantic import BaseModel

from server.errors import answer_for, envelope
from server.piece import Piece
from server.protocol.chat import NamedTool
from server.protocol.responses import ResponsesRequest
from server.protocol.responses_events import ResponseEvent
from server.protocol.responses_reply import (
    Failure,
    IncompleteDetails,
    InputDetails,
    Output,
    OutputDetails,
    ResponseReply,
    ResponsesUsage,
    Status,
)
from server.translate.conversation import ChatPlan, plan_chat
from server.translate.figures import metrics_of
from server.translate.reply import Reply
from server.translate.requests import Planner
from server.translate.response_input import chat_of_response, named_tools
from server.translate.response_items import ItemWriter
from server.translate.telling import ReplyTelling, Step

State = Literal["in_progress", "completed", "incomplete", "failed"]


def plan_response(body: ResponsesRequest, request_id: str, planner: Planner) -> ChatPlan:
    """What a body asks for; raises as `Planner.plan` does."""
    return plan_chat(chat_of_response(body), request_id, planner)


@dataclass(frozen=True, slots=True)
class ResponsesReply(Reply[ResponsesRequest, ChatPlan]):
    """Says in the words of OpenAI's Responses what becomes of a plan; good for one reply."""

    numbers: Iterator[int] = field(default_factory=count)

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[BaseModel]:
        """The events of a reply: its beginning, its items one after another, its end."""
        telling, writer = ReplyTelling(self.plan.reader, self.record), self._writer()
        async with aclosing(pieces):
            async for piece in pieces:
                if not telling.is_begun:
                    telling.is_begun = True
                    yield self._event("created", "in_progress")
                    yield self._event("in_progress", "in_progress")
                for step in telling.steps(piece):
                    for event in writer.events(step, _status(step, piece)):
                        yield event
                if piece.finish_reason is not None:
                    yield self._event(_state(piece), _state(piece), writer.items)

    def whole(self, choices: Sequence[Piece]) -> ResponseReply:
        """The reply."""
        [piece] = choices
        writer = self._writer()
        for step in ReplyTelling(self.plan.reader, self.record).steps(piece):
            for _ in writer.events(step, _status(step, piece)):
                pass
        return self._reply(_state(piece), writer.items)

    def failure(self, error: Exception) -> BaseModel:
        """The event of a reply that has failed."""
        told = envelope(error).error
        is_ours = answer_for(error).status >= 500
        failed = self._event("failed", "failed")
        failed.response.error = Failure(
            code="server_error" if is_ours else "invalid_prompt",
            type=told.code or told.type,
            message=told.message,
        )
        return failed

    def _writer(self) -> ItemWriter:
        digest, call_id = partial(self.digest, 0), partial(self.call_id, 0)
        return ItemWriter(named_tools(self.body), digest, call_id, self.numbers)

    def _event(self, name: str, state: State, items: Sequence[Output] = ()) -> ResponseEvent:
        kind: Any = f"response.{name}"
        reply = self._reply(state, items)
        return ResponseEvent(type=kind, response=reply, sequence_number=next(self.numbers))

    def _reply(self, state: State, items: Sequence[Output]) -> ResponseReply:
        """The reply as it is now, with what was asked for."""
        body, is_over = self.body, state in ("completed", "incomplete")
        asked = body.model_dump(include={"reasoning", "text", "tools"})
        head = self.head
        return ResponseReply(
            created_at=head.pop("created"),
            **head,
            status=state,
            incomplete_details=_CUT if state == "incomplete" else None,
            output=[*items],
            usage=self._usage() if is_over else None,
            metrics=metrics_of(self.record) if is_over else None,
            seed=self.plan.sequences[0].sampling.seed,
            instructions=body.instructions,
            max_output_tokens=body.max_tokens,
            parallel_tool_calls=body.parallel_tool_calls,
            reasoning=asked["reasoning"] or {"effort": None, "summary": None},
            temperature=body.temperature,
            text=asked["text"] or {"format": {"type": "text"}},
            tool_choice=_told_choice(body.tool_choice),
            tools=asked["tools"],
            top_p=body.top_p,
            metadata=body.metadata,
        )

    def _usage(self) -> ResponsesUsage:
        record = self.record
        return ResponsesUsage(
            input_tokens=record.num_prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=record.num_cached_tokens),
            output_tokens=record.num_completion_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=record.num_reasoning_tokens),
            total_tokens=record.num_prompt_tokens + record.num_completion_tokens,
        )


def _told_choice(choice: str | NamedTool) -> Any:
    """A choice of tools in this API's words."""
    if isinstance(choice, str):
        return choice
    return {"type": "function", "name": choice.function.name}


_CUT = IncompleteDetails(reason="max_output_tokens")


def _state(piece: Piece) -> State:
    """How a reply is that ends with this piece."""
    return "incomplete" if piece.finish_reason == "length" else "completed"


def _status(step: Step, piece: Piece) -> Status:
    """How an item is after this step; what a cut text ends with is incomplete."""
    if step.does != "end":
        return "in_progress"
    return "incomplete" if step.is_last and piece.finish_reason == "length" else "completed"
