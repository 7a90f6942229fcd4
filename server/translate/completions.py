"""Text completions: a body becomes a plan, a piece a chunk, and whole choices a whole reply."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from engine import EmittedToken
from server.errors import BadRequestError
from server.piece import Piece
from server.plan import Plan
from server.protocol import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    RequestMetrics,
    TracedStep,
    Usage,
    UsageChunk,
)
from server.translate.figures import metrics_of, usage_of, with_figures
from server.translate.logprobs import LogprobWriter, bounded
from server.translate.prompts import Echo, prompt_ids
from server.translate.reply import Reply
from server.translate.requests import Planner
from server.translate.trace import TraceWriter


def plan_completion(body: CompletionRequest, request_id: str, planner: Planner) -> Plan:
    """What a body asks for; raises BadRequestError or InvalidRequestError."""
    most = planner.settings.max_logprobs
    for name in ("logprobs", "prompt_logprobs"):
        if (getattr(body, name) or 0) > most:
            raise BadRequestError(f"{name}: at most {most} are given", param=name)
    echoed = body.logprobs if body.echo else None
    num_prompt = max((k for k in (echoed, body.prompt_logprobs) if k is not None), default=None)
    num_choices = body.best_of or body.n
    # The best are known by the log-probabilities of what they say.
    num_logprobs = 0 if body.logprobs is None and num_choices > body.n else body.logprobs
    prompts = prompt_ids(body, planner)
    ends = planner.infill.ends if body.suffix and planner.infill else ()
    return planner.plan(body, request_id, prompts, num_logprobs, num_prompt, num_choices, ends)


@dataclass(frozen=True, slots=True)
class CompletionReply(Reply[CompletionRequest, Plan]):
    """Says in OpenAI's words what becomes of a plan."""

    echoes: dict[int, Echo] = field(default_factory=dict)
    scores: dict[int, tuple[EmittedToken, ...]] = field(default_factory=dict)
    """Of each prompt, by its number; the first of its choices has them for all."""

    async def chunks(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Completion]:
        """A chunk for each piece, and one of the usage if it is asked for."""
        options = self.body.stream_options
        kind = UsageChunk if options and options.include_usage else Completion
        begun, trace = set[int](), TraceWriter(self.tokenizer)
        scored = self._after_scores(pieces)
        async with aclosing(with_figures(scored, self.plan, self.record, options)) as told:
            async for piece, usage, metrics in told:
                choices = []
                if piece is not None:
                    is_first, steps = piece.index not in begun, trace.steps(piece)
                    choices = [self._choice(piece, piece.index, is_first, steps)]
                    begun.add(piece.index)
                yield self._completion(choices, usage, metrics, kind)

    def whole(self, choices: Sequence[Piece]) -> Completion:
        """The reply of all choices, or of the best: they are told first to last, by prompt."""
        for first in choices[:: self.plan.n]:
            self.scores[first.index // self.plan.n] = first.prompt
        told = [self._choice(piece, index) for index, piece in enumerate(self._best(choices))]
        num_told = sum(len(choice.tokens) for choice in choices)
        return self._completion(told, usage_of(self.record, num_told), metrics_of(self.record))

    async def _after_scores(self, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """The pieces, of which those of other choices wait for the scores of their prompt."""
        waiting: dict[int, list[Piece]] = {}
        are_scored = self.plan.sequences[0].num_prompt_logprobs is not None
        async with aclosing(pieces):
            async for piece in pieces:
                number, choice = divmod(piece.index, self.plan.n)
                if are_scored and choice and number not in self.scores:
                    waiting.setdefault(number, []).append(piece)
                    continue
                self.scores.setdefault(number, piece.prompt)
                for each in (piece, *waiting.pop(number, ())):
                    yield each

    def _best(self, choices: Sequence[Piece]) -> list[Piece]:
        """The `n` of each prompt's choices that are likeliest by the token."""
        if self.plan.n == self.body.n:
            return [*choices]
        groups = [choices[i : i + self.plan.n] for i in range(0, len(choices), self.plan.n)]
        return [
            piece
            for group in groups
            for piece in sorted(group, key=_mean_logprob, reverse=True)[: self.body.n]
        ]

    def _completion(
        self,
        choices: list[Choice],
        usage: Usage | None,
        metrics: RequestMetrics | None,
        kind: type[Completion] = Completion,
    ) -> Completion:
        return kind(
            **self.head,
            choices=choices,
            usage=usage,
            metrics=metrics,
        )

    def _choice(
        self,
        piece: Piece,
        index: int,
        is_first: bool = True,
        steps: list[TracedStep] | None = None,
    ) -> Choice:
        """A piece as the choice of this index; the first may tell its prompt."""
        sequence = self.plan.sequences[piece.index]
        wants_ids, num_scores = self.body.return_token_ids, self.body.prompt_logprobs
        echo = self._echo(piece.index) if self.body.echo else None
        writer = LogprobWriter(self.tokenizer, num_scores or 0)
        scores = self.scores.get(piece.index // self.plan.n, ()) if is_first else ()
        return Choice(
            index=index,
            text=echo.text + piece.text if echo and is_first else piece.text,
            logprobs=None if self.body.logprobs is None else self._logprobs(piece, scores, echo),
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            seed=sequence.sampling.seed,
            token_ids=[token.token_id for token in piece.tokens] if wants_ids else None,
            prompt_token_ids=[*sequence.prompt] if wants_ids and is_first else None,
            prompt_logprobs=None if num_scores is None else writer.by_id(scores),
            trace=steps,
        )

    def _logprobs(
        self, piece: Piece, scores: Sequence[EmittedToken], echo: Echo | None
    ) -> Logprobs:
        """Those of a piece; offsets count from the beginning of a prompt that is told."""
        writer = LogprobWriter(self.tokenizer, self.body.logprobs or 0)
        if echo is None:
            return writer.lists(piece.tokens, piece.offsets)
        places = echo.places if scores else ()
        offsets = [*places, *(len(echo.text) + offset for offset in piece.offsets)]
        return writer.lists([*scores, *piece.tokens], offsets)

    def _echo(self, index: int) -> Echo:
        """The prompt of this choice, which is spelled once."""
        number = index // self.plan.n
        if number not in self.echoes:
            ids = self.plan.sequences[index].prompt
            self.echoes[number] = Echo.of(self.body, number, ids, self.tokenizer)
        return self.echoes[number]


def _mean_logprob(piece: Piece) -> float:
    """Of a choice's tokens, to three places; 0 without any.

    The last bits of figures depend on company: of equal texts the first is to be the best.
    """
    known = [token.logprob for token in piece.tokens if token.logprob is not None]
    return round(sum(map(bounded, known)) / max(1, len(known)), 3)
