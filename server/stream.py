"""A completion as a stream of chunks, and the fold of that stream into a whole reply."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from engine import GenerateRequest, Output
from server.choice import ChoiceWriter
from server.dispatch import Dispatcher
from server.engine_client import Serving
from server.metrics import Metrics
from server.protocol import Choice, Completion, Logprobs, RequestMetrics, Usage
from server.record import RequestRecord
from server.translate import Plan, metrics_of, usage_of

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class CompletionStream:
    """Runs one plan, choice after choice; mutable, and good for one run."""

    plan: Plan
    arrived_at: float
    dispatcher: Dispatcher
    metrics: Metrics

    async def chunks(self) -> AsyncGenerator[Completion]:
        """The reply, piece by piece; closing the generator frees the engine within one step."""
        plan = self.plan
        record = RequestRecord(plan.num_prompt_tokens, self.arrived_at, plan.stage_names)
        created = int(time.time())
        with self.metrics.request(record):
            async with self.dispatcher.turn(plan.sequences[0].prompt) as serving:
                record.begin_turn(time.monotonic())
                self.metrics.observe_start(record)
                for index in range(len(plan.sequences)):
                    async with aclosing(self._choice(index, serving, record)) as pieces:
                        async for piece in pieces:
                            yield self._chunk(created, piece, record)
            self._log(serving.client.number, record)
            if plan.wants_usage:
                yield self._completion(created, [], usage_of(record), metrics_of(record))

    async def _choice(
        self, index: int, serving: Serving, record: RequestRecord
    ) -> AsyncGenerator[Choice]:
        sequence = self.plan.sequences[index]
        writer = ChoiceWriter(
            index,
            sequence,
            serving.tokenizer,
            self.plan.stops,
            self.plan.wants_token_ids,
        )
        record.begin_choice()
        async with aclosing(serving.generate(sequence)) as items:
            async for item in items:
                if isinstance(item, Output):
                    self._observe(item, writer.push(item.tokens), sequence, serving, record)
                elif writer.finish_reason is None:
                    writer.end("stop" if item.reason == "stop" else "length")
                if (piece := writer.take()) is not None:
                    yield piece
                if writer.has_ended_early:
                    return

    def _observe(
        self,
        step: Output,
        num_kept: int,
        sequence: GenerateRequest,
        serving: Serving,
        record: RequestRecord,
    ) -> None:
        is_first = record.first_token_at is None
        record.add_step(step, num_kept, time.monotonic())
        if is_first:
            self.metrics.observe_first_token(record)
        length = len(sequence.prompt) + record.num_choice_tokens
        self.metrics.observe_step(step, num_kept)
        usage = self.metrics.cache_usage(serving.client.number)
        usage.set(length / serving.info.max_model_len)

    def _log(self, engine: int, record: RequestRecord) -> None:
        metrics = metrics_of(record)
        _log.info(
            "%s: engine %d: %d tokens in, %d out; first after %.0f ms, %.1f tokens/s, "
            "%.2f tokens per step",
            self.plan.request_id,
            engine,
            record.num_prompt_tokens,
            record.num_completion_tokens,
            metrics.time_to_first_token_ms,
            metrics.tokens_per_second,
            metrics.speculative_decoding.mean_acceptance_length,
        )

    def _chunk(self, created: int, piece: Choice, record: RequestRecord) -> Completion:
        """One piece as a chunk; the last one of all tells the metrics if no usage chunk will."""
        usage = usage_of(record) if self.plan.wants_running_usage else None
        metrics = None
        if piece.finish_reason is not None:
            record.finish_reasons.append(piece.finish_reason)
            is_last = piece.index == len(self.plan.sequences) - 1
            metrics = metrics_of(record) if is_last and not self.plan.wants_usage else None
        return self._completion(created, [piece], usage, metrics)

    def _completion(
        self,
        created: int,
        choices: list[Choice],
        usage: Usage | None,
        metrics: RequestMetrics | None,
    ) -> Completion:
        return Completion(
            id=self.plan.request_id,
            created=created,
            model=self.plan.model,
            choices=choices,
            usage=usage,
            metrics=metrics,
        )


async def fold(chunks: AsyncIterator[Completion]) -> Completion:
    """The whole reply that a stream of at least one chunk adds up to."""
    choices: dict[int, Choice] = {}
    async for chunk in chunks:
        for piece in chunk.choices:
            known = choices.get(piece.index)
            choices[piece.index] = _joined(known, piece) if known else piece
    return chunk.model_copy(update={"choices": [choices[index] for index in sorted(choices)]})


def _joined(first: Choice, second: Choice) -> Choice:
    ids = None if second.token_ids is None else (first.token_ids or []) + second.token_ids
    return second.model_copy(
        update={
            "text": first.text + second.text,
            "logprobs": _joined_logprobs(first.logprobs, second.logprobs),
            "token_ids": ids,
        }
    )


def _joined_logprobs(first: Logprobs | None, second: Logprobs | None) -> Logprobs | None:
    if first is None or second is None:
        return second or first
    return Logprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )
