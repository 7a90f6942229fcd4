"""Text completions: a body becomes a plan, a piece a chunk, and whole choices a whole reply."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from engine import EmittedToken
from server.errors import BadRequestError
from server.piece import Piece
from server.plan import Plan
from server.protocol import Choice, Completion, CompletionRequest, Logprobs, RequestMetrics, Usage
from server.record import RequestRecord
from server.text import Tokenizer
from server.translate.figures import finite, metrics_of, usage_of, with_figures
from server.translate.requests import Planner


def plan_completion(body: CompletionRequest, request_id: str, planner: Planner) -> Plan:
    """What a body asks for; raises BadRequestError or InvalidRequestError."""
    most = planner.settings.max_logprobs
    if body.logprobs is not None and body.logprobs > most:
        raise BadRequestError(f"logprobs: at most {most} are given", param="logprobs")
    return planner.plan(body, request_id, _prompts(body, planner), body.logprobs)


def _prompts(body: CompletionRequest, planner: Planner) -> list[tuple[int, ...]]:
    """The prompts as token ids, whichever of the four shapes they came in."""
    shaped: list[object] = list(body.prompt) if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(shaped[0], int):
        shaped = [shaped]
    return [tuple(_token_ids(each, body.add_special_tokens, planner)) for each in shaped]


def _token_ids(prompt: object, add_special_tokens: bool, planner: Planner) -> list[int]:
    if isinstance(prompt, str):
        return planner.tokenizer.encode(prompt, add_special_tokens) or planner.start()
    assert isinstance(prompt, list)
    return prompt


@dataclass(frozen=True, slots=True)
class CompletionReply:
    """Says in OpenAI's words what becomes of a plan; `record` is filled meanwhile."""

    body: CompletionRequest
    plan: Plan
    record: RequestRecord
    tokenizer: Tokenizer
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Completion]:
        """A chunk for each piece, and one of the usage if it is asked for."""
        options = self.body.stream_options
        async with aclosing(with_figures(pieces, self.plan, self.record, options)) as told:
            async for piece, usage, metrics in told:
                choices = [] if piece is None else [self._choice(piece)]
                yield self._completion(choices, usage, metrics)

    def whole(self, choices: Sequence[Piece]) -> Completion:
        """The reply of all choices."""
        told = [self._choice(choice) for choice in choices]
        num_told = sum(len(choice.tokens) for choice in choices)
        return self._completion(told, usage_of(self.record, num_told), metrics_of(self.record))

    def _completion(
        self, choices: list[Choice], usage: Usage | None, metrics: RequestMetrics | None
    ) -> Completion:
        return Completion(
            id=self.plan.request_id,
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage,
            metrics=metrics,
        )

    def _choice(self, piece: Piece) -> Choice:
        wants_ids = self.body.return_token_ids
        return Choice(
            index=piece.index,
            text=piece.text,
            logprobs=None if self.body.logprobs is None else self._logprobs(piece),
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            seed=self.plan.sequences[piece.index].sampling.seed,
            token_ids=[token.token_id for token in piece.tokens] if wants_ids else None,
        )

    def _logprobs(self, piece: Piece) -> Logprobs:
        return Logprobs(
            tokens=[self.tokenizer.token_text(token.token_id) for token in piece.tokens],
            token_logprobs=[finite(token.logprob) for token in piece.tokens],
            top_logprobs=[self._top(token) for token in piece.tokens],
            text_offset=list(piece.offsets),
        )

    def _top(self, token: EmittedToken) -> dict[str, float]:
        """The alternatives by text; the chosen token is always among them."""
        ranked = (*token.top_logprobs, (token.token_id, finite(token.logprob)))
        texts: dict[str, float] = {}
        for token_id, logprob in ranked:
            texts.setdefault(self.tokenizer.token_text(token_id), finite(logprob))
        return texts
