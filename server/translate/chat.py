"""Chat: a body becomes a plan, a piece a chunk, and whole choices a whole reply."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from engine import EmittedToken
from server.message import Added
from server.piece import Piece
from server.protocol import (
    CallPiece,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Delta,
    ReplyMessage,
    TokenLogprob,
    ToolCallPiece,
    TopLogprob,
    UsageChatChunk,
)
from server.protocol.chat_reply import ChatEnd
from server.translate.conversation import ChatPlan
from server.translate.figures import metrics_of, usage_of, with_figures
from server.translate.logprobs import LOWEST_LOGPROB, bounded
from server.translate.reply import Reply
from server.translate.telling import ReplyTelling
from server.translate.trace import TraceWriter


@dataclass(frozen=True, slots=True)
class ChatReply(Reply[ChatRequest, ChatPlan]):
    """Says in OpenAI's words what becomes of a plan."""

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[ChatChunk]:
        """A chunk for each piece of which anything is certain, and one of the usage."""
        tellings = [ReplyTelling(self.plan.reader, self.record) for _ in self.plan.sequences]
        trace = TraceWriter(self.tokenizer)
        options = self.body.stream_options
        kind = UsageChatChunk if options and options.include_usage else ChatChunk
        async with aclosing(with_figures(pieces, self.plan, self.record, options)) as told:
            async for piece, usage, metrics in told:
                choices = [] if piece is None else self._pieces(tellings[piece.index], piece, trace)
                if piece is None or choices:
                    yield kind(
                        **self.head,
                        choices=choices,
                        usage=usage,
                        metrics=metrics,
                    )

    def whole(self, choices: Sequence[Piece]) -> ChatCompletion:
        """The reply of all choices."""
        num_told = sum(len(choice.tokens) for choice in choices)
        told = [self._choice(choice) for choice in choices]
        return ChatCompletion(
            **self.head,
            choices=told,
            usage=usage_of(self.record, num_told),
            metrics=metrics_of(self.record),
        )

    def _choice(self, piece: Piece) -> ChatChoice:
        message = ReplyTelling(self.plan.reader, self.record).read(piece)
        calls = [
            ToolCallPiece(
                id=self.call_id(piece.index, rank),
                type="function",
                function=CallPiece(name=call.name, arguments=call.text),
            )
            for rank, call in enumerate(message.calls)
        ]
        return ChatChoice(
            index=piece.index,
            message=ReplyMessage(
                content=message.content or (None if calls or message.reasoning else ""),
                reasoning_content=message.reasoning or None,
                tool_calls=calls or None,
            ),
            logprobs=self._logprobs(piece),
            finish_reason=_end(piece, bool(calls)),
            stop_reason=piece.stop_reason,
            seed=self.plan.sequences[piece.index].sampling.seed,
            token_ids=self._token_ids(piece),
        )

    def _pieces(
        self, telling: ReplyTelling, piece: Piece, trace: TraceWriter
    ) -> list[ChatChunkChoice]:
        """What a piece adds to its choice's message, if that can be told yet."""
        is_first = not telling.is_begun
        added = telling.push(piece)
        content = "".join(map(_as_content, added))
        reasoning = "".join(each.part.text for each in added if each.part.kind == "reasoning")
        calls = [each for each in added if each.part.kind == "call"]
        delta = Delta(
            role="assistant" if is_first else None,
            content=content or ("" if is_first else None),
            reasoning_content=reasoning or None,
            tool_calls=self._call_pieces(piece.index, calls) or None,
        )
        if not (added or piece.finish_reason or self.plan.manner.tells_tokens):
            return []
        telling.is_begun = True
        return [
            ChatChunkChoice(
                index=piece.index,
                delta=delta,
                logprobs=self._logprobs(piece),
                finish_reason=_end(piece, telling.has_calls),
                stop_reason=piece.stop_reason,
                seed=self.plan.sequences[piece.index].sampling.seed,
                token_ids=self._token_ids(piece),
                trace=trace.steps(piece),
            )
        ]

    def _call_pieces(self, choice: int, calls: Sequence[Added]) -> list[ToolCallPiece]:
        """What each call has got: its arguments, and of one that is new its name with them."""
        return [
            ToolCallPiece(
                index=call.rank,
                id=self.call_id(choice, call.rank),
                type="function",
                function=CallPiece(name=call.part.name, arguments=call.part.text),
            )
            if call.is_new
            else ToolCallPiece(index=call.rank, function=CallPiece(arguments=call.part.text))
            for call in calls
        ]

    def _token_ids(self, piece: Piece) -> list[int] | None:
        wants_ids = self.body.return_token_ids
        return [token.token_id for token in piece.tokens] if wants_ids else None

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if not self.body.logprobs:
            return None
        return ChatLogprobs(content=[self._logprob(token) for token in piece.tokens])

    def _logprob(self, token: EmittedToken) -> TokenLogprob:
        others = [self._named(token_id, logprob) for token_id, logprob in token.top_logprobs]
        chosen = self._named(token.token_id, token.logprob)
        return TokenLogprob(
            token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=others
        )

    def _named(self, token_id: int, logprob: float | None) -> TopLogprob:
        text = self.tokenizer.token_text(token_id)
        encoded = self.tokenizer.token_bytes(token_id)
        return TopLogprob(
            token=text,
            logprob=LOWEST_LOGPROB if logprob is None else bounded(logprob),
            bytes=list(text.encode() if encoded is None else encoded),
        )


def _as_content(added: Added) -> str:
    """What content is added: in a new line, if it stands behind a call."""
    is_another = added.is_new and added.rank > 0
    return ("\n" if is_another else "") + added.part.text if added.part.kind == "content" else ""


def _end(piece: Piece, has_calls: bool) -> ChatEnd | None:
    """A text that ends by itself ends for its calls, if it has any."""
    return "tool_calls" if piece.finish_reason == "stop" and has_calls else piece.finish_reason
