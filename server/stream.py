"""A plan carried out: the pieces of its choices, as engines write them."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from engine import Output
from server.choice import ChoiceWriter
from server.engines import EngineClient, EnginePool
from server.metrics import Metrics
from server.piece import Piece
from server.plan import Plan
from server.record import ChoiceRecord, RequestRecord

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Generation:
    """Runs one plan, choice after choice, and keeps its record; mutable, and good for one run."""

    plan: Plan
    record: RequestRecord
    pool: EnginePool
    metrics: Metrics

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The reply, piece by piece; closing the generator frees the engine within one step."""
        plan, record = self.plan, self.record
        with self.metrics.request(record):
            async with self.pool.turn(plan.sequences[0].prompt) as client:
                record.turn_at, window = time.monotonic(), client.info.max_model_len
                self.metrics.observe_start(record)
                for index in range(len(plan.sequences)):
                    async with aclosing(self._choice(index, client, window)) as pieces:
                        async for piece in pieces:
                            yield piece
            self._log(client.number)

    async def _choice(self, index: int, client: EngineClient, window: int) -> AsyncGenerator[Piece]:
        plan, sequence = self.plan, self.plan.sequences[index]
        tokenizer = self.pool.tokenizer.get()
        writer = ChoiceWriter(index, sequence.prompt, tokenizer, plan.stops, plan.tells_tokens)
        choice = self.record.begin_choice()
        with self.metrics.cache_usage(client.number) as usage:
            async with aclosing(client.generate(sequence)) as updates:
                async for update in updates:
                    num_kept = writer.push(update)
                    if update.output is not None:
                        self._observe(choice, update.output, num_kept)
                        usage.set((len(sequence.prompt) + choice.num_tokens) / window)
                    choice.finish_reason = writer.finish_reason
                    if (piece := writer.take()) is not None:
                        yield piece
                    if writer.finish_reason is not None:
                        return

    def _observe(self, choice: ChoiceRecord, step: Output, num_kept: int) -> None:
        is_first = self.record.stats.num_steps == 0
        self.record.add_step(choice, step, num_kept, time.monotonic())
        if is_first:
            self.metrics.observe_first_token(self.record)
        self.metrics.observe_step(step, num_kept)

    def _log(self, engine: int) -> None:
        record = self.record
        _log.info(
            "%s: engine %d: %d tokens in, %d out; first after %.0f ms, %.1f tokens/s, "
            "%.2f tokens per step",
            *(self.plan.request_id, engine),
            *(record.num_prompt_tokens, record.num_completion_tokens),
            *(1e3 * record.first_token_seconds, record.tokens_per_second),
            record.stats.mean_acceptance_length,
        )
