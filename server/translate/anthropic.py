"""Anthropic's messages: a body becomes a chat, and a reply blocks, whole or as events."""

import hashlib
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from server.errors import BadRequestError, NotStoredError, anthropic_envelope
from server.message import Part
from server.piece import Piece
from server.protocol import ChatRequest
from server.protocol.anthropic import (
    MessagesRequest,
    PromptRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from server.protocol.anthropic_reply import (
    AnthropicMessage,
    AnthropicUsage,
    BlockAddition,
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    MessageDelta,
    MessageStart,
    MessageStop,
    OutputTokensDetails,
    Ping,
    ReplyBlock,
    ReplyText,
    ReplyThinking,
    ReplyToolUse,
)
from server.translate.agents import call_of, chat_of, joined, tool_of
from server.translate.conversation import ChatPlan, plan_chat, write_prompt
from server.translate.figures import metrics_of
from server.translate.reply import Reply
from server.translate.requests import Planner
from server.translate.telling import ReplyTelling, Step

_DELTAS = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}
"""What more of a part is called, and the name of its text."""


def plan_message(body: MessagesRequest, request_id: str, planner: Planner) -> ChatPlan:
    """What a body asks for; raises as `Planner.plan` does."""
    return plan_chat(_chat_of(body), request_id, planner)


def count_tokens(body: PromptRequest, planner: Planner) -> int:
    """Tokens of the prompt that a body would be; raises BadRequestError or ContextLengthError."""
    return len(planner.encode(write_prompt(_chat_of(body), planner), add_special_tokens=False))


def _chat_of(body: PromptRequest) -> ChatRequest:
    if body.thread is not None:
        raise NotStoredError(
            "thread: nothing is stored here: send all messages, and leave it out", param="thread"
        )
    messages = joined(_messages(body))
    if not messages:
        told = "messages: they say nothing that is told to a model"
        raise BadRequestError(told, param="messages")
    last = messages[-1]
    is_text = bool(last.get("content")) and "tool_calls" not in last
    is_continued = last["role"] == "assistant" and is_text
    thinking = body.thinking.type if body.thinking else None
    return chat_of(
        body,
        messages,
        [tool_of(tool.name, tool.description, tool.input_schema) for tool in body.tools],
        tool_choice=body.tool_choice.choice,
        parallel_tool_calls=not body.tool_choice.disable_parallel_tool_use,
        continue_final_message=is_continued,
        add_generation_prompt=not is_continued,
        enable_thinking={"enabled": True, "disabled": False}.get(thinking or ""),
        reasoning_effort=body.output_config.effort if body.output_config else None,
    )


def _messages(body: PromptRequest) -> Iterator[Mapping[str, Any]]:
    if body.system:
        yield {"role": "system", "content": body.system}
    for turn in body.messages:
        yield from _said(turn)


def _said(turn: Turn) -> Iterator[Mapping[str, Any]]:
    """A turn's blocks: texts that stand together are one message, and results have their own."""
    lines: list[str] = []
    for block in turn.content:
        if isinstance(block, TextBlock):
            lines.append(block.text)
            continue
        if lines:
            yield {"role": turn.role, "content": "\n".join(lines)}
            lines = []
        if isinstance(block, ThinkingBlock):
            yield {"role": "assistant", "reasoning_content": block.thinking}
        elif isinstance(block, ToolUseBlock):
            yield call_of(block.id, block.name, block.input)
        elif isinstance(block, ToolResultBlock):
            told = {"role": "tool", "tool_call_id": block.tool_use_id, "content": block.content}
            yield {**told, "is_error": True} if block.is_error else told
    if lines or not turn.content:
        yield {"role": turn.role, "content": "\n".join(lines)}


@dataclass(frozen=True, slots=True)
class AnthropicReply(Reply[MessagesRequest, ChatPlan]):
    """Says in Anthropic's words what becomes of a plan."""

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[BaseModel]:
        """The events of a reply: its beginning, its blocks one after another, its end."""
        telling = ReplyTelling(self.plan.reader, self.record)
        async with aclosing(pieces):
            async for piece in pieces:
                if not telling.is_begun:
                    telling.is_begun = True
                    yield MessageStart(message=self._message([], None))
                    yield Ping()
                for step in telling.steps(piece):
                    for event in self._events(step):
                        yield event
                if piece.finish_reason is not None:
                    yield MessageDelta(
                        delta=_ending(piece, telling.has_calls),
                        usage=self._usage(is_over=True),
                        metrics=metrics_of(self.record),
                    )
                    yield MessageStop()

    def whole(self, choices: Sequence[Piece]) -> AnthropicMessage:
        """The reply."""
        [piece] = choices
        telling = ReplyTelling(self.plan.reader, self.record)
        steps = [*telling.steps(piece)]
        blocks = [self._block(step) for step in steps if step.does == "end"]
        return self._message(blocks, _ending(piece, telling.has_calls))

    def failure(self, error: Exception) -> BaseModel:
        """The event of an error."""
        return anthropic_envelope(error)

    def _events(self, step: Step) -> Iterator[BaseModel]:
        """The events of a step."""
        if step.does == "begin":
            yield BlockStart(index=step.number, content_block=self._block(step))
        elif step.does == "grow":
            kind, name = _DELTAS[step.part.kind]
            yield _delta(step, kind, name, step.part.text)
        else:
            if step.part.kind == "reasoning":
                yield _delta(step, "signature_delta", "signature", _signature(step.part))
            yield BlockStop(index=step.number)

    def _block(self, step: Step) -> ReplyBlock:
        """A block as it is now."""
        part = step.part
        if part.kind == "content":
            return ReplyText(text=part.text)
        if part.kind == "reasoning":
            return ReplyThinking(thinking=part.text, signature=_signature(part))
        call_id = self.call_id(0, step.rank)
        return ReplyToolUse(id=call_id, name=part.name, input=_input(part.text))

    def _message(self, blocks: list[ReplyBlock], ending: Ending | None) -> AnthropicMessage:
        head = self.head
        del head["created"]
        return AnthropicMessage(
            **head,
            content=blocks,
            stop_reason=ending.stop_reason if ending else None,
            stop_sequence=ending.stop_sequence if ending else None,
            usage=self._usage(is_over=ending is not None),
            seed=self.plan.sequences[0].sampling.seed,
            metrics=metrics_of(self.record) if ending else None,
        )

    def _usage(self, is_over: bool) -> AnthropicUsage:
        record = self.record
        details = OutputTokensDetails(thinking_tokens=record.num_reasoning_tokens)
        return AnthropicUsage(
            input_tokens=record.num_prompt_tokens - record.num_cached_tokens,
            cache_read_input_tokens=record.num_cached_tokens,
            output_tokens=record.num_completion_tokens if is_over else 0,
            output_tokens_details=details if is_over else None,
        )


def _delta(step: Step, kind: Any, name: str, text: str) -> BlockDelta:
    return BlockDelta(index=step.number, delta=BlockAddition(type=kind, **{name: text}))


def _signature(part: Part) -> str:
    """A digest of what was thought; nothing, while nothing is."""
    return hashlib.sha256(part.text.encode()).hexdigest() if part.text else ""


def _input(arguments: str) -> dict[str, Any]:
    """What a tool is given; as the model wrote it, where that is no object."""
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        given = None
    return given if isinstance(given, dict) else {"unparsed": arguments}


def _ending(piece: Piece, has_calls: bool) -> Ending:
    """Why a reply has ended with this piece."""
    if piece.finish_reason == "length":
        return Ending(stop_reason="max_tokens", stop_sequence=None)
    if has_calls:
        return Ending(stop_reason="tool_use", stop_sequence=None)
    if isinstance(piece.stop_reason, str):
        return Ending(stop_reason="stop_sequence", stop_sequence=piece.stop_reason)
    return Ending(stop_reason="end_turn", stop_sequence=None)
