"""A plan carried out: the pieces of its choices, as engines write them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from engine import EngineDiedError, Output
from server.choice import ChoiceWriter
from server.engines import EnginePool, QueuedRequest
from server.errors import LoadFailedError, SlowReaderError
from server.metrics import Metrics
from server.piece import Piece
from server.plan import Plan
from server.record import ChoiceRecord, RequestRecord

_log = logging.getLogger(__name__)
_MAX_TURNS = 3
"""A prompt that is the death of so many engines is not tried on another."""

MOST_UNREAD = 8192
"""Pieces of a reply that may lie here while its client reads, or does not: some megabytes."""

Pieces = asyncio.Queue[Piece | None]


@dataclass(slots=True)
class Generation:
    """Runs one plan, all choices at once, and keeps its record; mutable, and good for one run."""

    plan: Plan
    record: RequestRecord
    pool: EnginePool
    metrics: Metrics

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The reply, piece by piece; closing the generator frees its seats within one step.

        Texts are written on while nobody asks for the next piece: a seat waits for no reader. So a
        reader who stays too far behind loses the reply; raises SlowReaderError then.
        """
        pieces: Pieces = asyncio.Queue()
        # Whoever reads may do so in several tasks, so what runs has one of its own.
        work = asyncio.create_task(self._run(pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _run(self, pieces: Pieces) -> None:
        """Write all choices; None is the last piece, however they end."""
        try:
            with self.metrics.request(self.record), self.pool.request(self.plan.priority) as queued:
                await self._write_all(queued, pieces)
            self._log()
        except SlowReaderError as error:
            _log.info("%s: %s", self.plan.request_id, error)
            while not pieces.empty():
                pieces.get_nowait()
            raise
        finally:
            pieces.put_nowait(None)

    async def _write_all(self, queued: QueuedRequest, pieces: Pieces) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for index in range(len(self.plan.sequences)):
                    tasks.create_task(
                        self._write(index, self.record.begin_choice(), queued, pieces)
                    )
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _write(
        self, index: int, choice: ChoiceRecord, queued: QueuedRequest, pieces: Pieces
    ) -> None:
        """One choice; what meets a dead engine before its first token queues again."""
        for num_left in reversed(range(_MAX_TURNS)):
            try:
                return await self._write_in_turn(index, choice, queued, pieces)
            except (EngineDiedError, LoadFailedError):
                if choice.num_tokens or not num_left:
                    raise

    async def _write_in_turn(
        self, index: int, choice: ChoiceRecord, queued: QueuedRequest, pieces: Pieces
    ) -> None:
        plan, sequence = self.plan, self.plan.sequences[index]
        tokenizer = self.pool.tokenizer.get()
        writer = ChoiceWriter(index, sequence.prompt, tokenizer, plan.manner)
        async with self.pool.seating.turn(queued, sequence.prompt) as (client, place):
            choice.engine = client.number
            self._begin()
            async with aclosing(client.generate(sequence)) as updates:
                async for update in updates:
                    num_kept = writer.push(update)
                    if update.output is not None:
                        self._observe(choice, update.output, num_kept, len(sequence.prompt))
                        place.observe(update.output, num_kept)
                    choice.finish_reason = writer.finish_reason
                    if (piece := writer.take()) is not None:
                        _put(piece, pieces)
                    if writer.finish_reason is not None:
                        return

    def _begin(self) -> None:
        """A choice has its turn; the first of them is the request's."""
        if self.record.turn_at is None:
            self.record.turn_at = time.monotonic()
            self.metrics.observe_start(self.record)

    def _observe(self, choice: ChoiceRecord, step: Output, num_kept: int, num_prompt: int) -> None:
        is_first, now = self.record.stats.num_steps == 0, time.monotonic()
        if choice.first_token_at is None:
            self.metrics.observe_prompt(num_prompt, step.num_cached_tokens)
        seconds = None if choice.first_token_at is None else now - choice.last_token_at
        self.record.add_step(choice, step, num_kept, now)
        if is_first:
            self.metrics.observe_first_token(self.record)
        self.metrics.observe_step(step, num_kept, seconds)

    def _log(self) -> None:
        record = self.record
        engines = sorted({choice.engine for choice in record.choices if choice.engine is not None})
        _log.info(
            "%s: engine %s: %d tokens in, %d out; first after %.0f ms, %.1f tokens/s, "
            "%.2f tokens per step",
            *(self.plan.request_id, ", ".join(map(str, engines))),
            *(record.num_prompt_tokens, record.num_completion_tokens),
            *(1e3 * record.first_token_seconds, record.tokens_per_second),
            record.stats.mean_acceptance_length,
        )


def _put(piece: Piece, pieces: Pieces) -> None:
    """Keep a piece for its reader; raises SlowReaderError where too many lie there."""
    if pieces.qsize() >= MOST_UNREAD:
        raise SlowReaderError(f"The client left {MOST_UNREAD} pieces of its reply unread.")
    pieces.put_nowait(piece)
