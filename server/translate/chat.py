"""Chat: a body becomes a plan, a piece a chunk, and whole choices a whole reply."""

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from engine import EmittedToken, ModelInfo
from server.message import Call, Message, Telling
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
from server.record import RequestRecord
from server.text import Tokenizer
from server.translate.conversation import ChatPlan
from server.translate.figures import fingerprint_of, metrics_of, usage_of, with_figures
from server.translate.logprobs import LOWEST_LOGPROB, bounded
from server.translate.trace import TraceWriter


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Says in OpenAI's words what becomes of a plan; `record` is filled meanwhile."""

    body: ChatRequest
    plan: ChatPlan
    record: RequestRecord
    tokenizer: Tokenizer
    model: str
    info: ModelInfo
    created: int = field(default_factory=lambda: int(time.time()))

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[ChatChunk]:
        """A chunk for each piece of which anything is certain, and one of the usage."""
        tellings = [Telling(self.plan.reader.read) for _ in self.plan.sequences]
        trace = TraceWriter(self.tokenizer)
        options = self.body.stream_options
        kind = UsageChatChunk if options and options.include_usage else ChatChunk
        async with aclosing(with_figures(pieces, self.plan, self.record, options)) as told:
            async for piece, usage, metrics in told:
                choices = [] if piece is None else self._pieces(tellings[piece.index], piece, trace)
                if piece is None or choices:
                    yield kind(
                        id=self.plan.request_id,
                        created=self.created,
                        model=self.model,
                        system_fingerprint=fingerprint_of(self.info),
                        choices=choices,
                        usage=usage,
                        metrics=metrics,
                    )

    def whole(self, choices: Sequence[Piece]) -> ChatCompletion:
        """The reply of all choices."""
        num_told = sum(len(choice.tokens) for choice in choices)
        return ChatCompletion(
            id=self.plan.request_id,
            created=self.created,
            model=self.model,
            system_fingerprint=fingerprint_of(self.info),
            choices=[self._choice(choice) for choice in choices],
            usage=usage_of(self.record, num_told),
            metrics=metrics_of(self.record),
        )

    def _choice(self, piece: Piece) -> ChatChoice:
        message = self.plan.reader.read(piece.text, True)
        calls = [
            ToolCallPiece(
                id=self._call_id(piece.index, number),
                type="function",
                function=CallPiece(name=call.name, arguments=call.arguments),
            )
            for number, call in enumerate(message.calls)
        ]
        return ChatChoice(
            index=piece.index,
            message=ReplyMessage(
                content=message.content or (None if calls or message.reasoning else ""),
                reasoning_content=message.reasoning or None,
                tool_calls=calls or None,
            ),
            logprobs=self._logprobs(piece),
            finish_reason=_end(piece, message),
            stop_reason=piece.stop_reason,
            seed=self.plan.sequences[piece.index].sampling.seed,
            token_ids=self._token_ids(piece),
        )

    def _pieces(self, telling: Telling, piece: Piece, trace: TraceWriter) -> list[ChatChunkChoice]:
        """What a piece adds to its choice's message, if that can be told yet."""
        is_first, num_known = not telling.is_begun, len(telling.told.calls)
        added = telling.push(piece.text, piece.finish_reason is not None)
        delta = Delta(
            role="assistant" if is_first else None,
            content=added.content or ("" if is_first else None),
            reasoning_content=added.reasoning or None,
            tool_calls=self._call_pieces(piece.index, added.calls, num_known) or None,
        )
        is_worth_telling = (
            added != Message() or piece.finish_reason or self.plan.manner.tells_tokens
        )
        if not is_worth_telling:
            return []
        telling.is_begun = True
        return [
            ChatChunkChoice(
                index=piece.index,
                delta=delta,
                logprobs=self._logprobs(piece),
                finish_reason=_end(piece, telling.told),
                stop_reason=piece.stop_reason,
                seed=self.plan.sequences[piece.index].sampling.seed,
                token_ids=self._token_ids(piece),
                trace=trace.steps(piece),
            )
        ]

    def _call_pieces(
        self, choice: int, calls: Sequence[Call], num_known: int
    ) -> list[ToolCallPiece]:
        """Of a call that is new its name first, and then what there is of its arguments."""
        told: list[ToolCallPiece] = []
        for number, call in enumerate(calls):
            if number >= num_known:
                told.append(
                    ToolCallPiece(
                        index=number,
                        id=self._call_id(choice, number),
                        type="function",
                        function=CallPiece(name=call.name, arguments=""),
                    )
                )
            if call.arguments:
                piece = CallPiece(arguments=call.arguments)
                told.append(ToolCallPiece(index=number, function=piece))
        return told

    def _call_id(self, choice: int, number: int) -> str:
        """Of nine letters and digits: the templates of Mistral's models refuse any other.

        Turns may come under one id of the client's; no two sequences share theirs.
        """
        name = f"{self.plan.sequences[choice].request_id}-{number}"
        return hashlib.sha256(name.encode()).hexdigest()[:9]

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


def _end(piece: Piece, message: Message) -> ChatEnd | None:
    """A text that ends by itself ends for its calls, if it has any."""
    return "tool_calls" if piece.finish_reason == "stop" and message.calls else piece.finish_reason
