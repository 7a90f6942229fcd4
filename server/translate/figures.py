"""The record of a request as the usage and the metrics that its reply tells."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache

from engine import PREDICTION, ModelInfo, StageStats
from server.piece import Piece
from server.plan import Plan
from server.protocol import (
    CompletionTokensDetails,
    PromptTokensDetails,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    StreamOptions,
    Usage,
)
from server.record import RequestRecord
from server.version import VERSION


def fingerprint_of(info: ModelInfo) -> str:
    """OpenAI's fingerprint of what makes a text: weights, precision and version.

    Where inputs are rounded, eager and compiled passes may part at near ties: they are told apart.
    """
    passes = "" if info.dtype == "float32" else info.passes.get("target", "")
    return _digest(f"{info.fingerprint} {info.dtype} {passes} {VERSION}")


@lru_cache(maxsize=16)
def _digest(made_by: str) -> str:
    return f"fp_{hashlib.sha256(made_by.encode()).hexdigest()[:12]}"


Told = tuple[Piece | None, Usage | None, RequestMetrics | None]
"""What a chunk of a stream tells: a piece, unless all have been told, and figures."""


async def with_figures(
    pieces: AsyncGenerator[Piece], plan: Plan, record: RequestRecord, options: StreamOptions | None
) -> AsyncGenerator[Told]:
    """Each piece, and one more chunk of the usage if it is asked for; the last tells the metrics.

    Closing this generator closes that of the pieces.
    """
    wants_usage = bool(options and options.include_usage)
    wants_running_usage = wants_usage and bool(options and options.continuous_usage_stats)
    num_open, num_told = len(plan.sequences), 0
    async with aclosing(pieces):
        async for piece in pieces:
            num_open -= piece.finish_reason is not None
            num_told += len(piece.tokens)
            usage = usage_of(record, num_told) if wants_running_usage else None
            is_last = num_open == 0 and not wants_usage
            yield piece, usage, metrics_of(record) if is_last else None
    if wants_usage:
        yield None, usage_of(record, num_told), metrics_of(record)


def usage_of(record: RequestRecord, num_told: int) -> Usage:
    """OpenAI's usage, of so many tokens that the client has been told."""
    proposed = record.stats.stages.get(PREDICTION, StageStats(PREDICTION)).num_proposed
    accepted = record.num_predicted_tokens
    return Usage(
        prompt_tokens=record.num_prompt_tokens,
        completion_tokens=num_told,
        total_tokens=record.num_prompt_tokens + num_told,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=record.num_cached_tokens),
        completion_tokens_details=CompletionTokensDetails(
            accepted_prediction_tokens=accepted,
            rejected_prediction_tokens=proposed - accepted,
            reasoning_tokens=record.num_reasoning_tokens,
        ),
    )


def metrics_of(record: RequestRecord) -> RequestMetrics:
    """vLLM's per-request metrics, with what each stage contributed."""
    stats = record.stats
    return RequestMetrics(
        time_to_first_token_ms=1e3 * record.first_token_seconds,
        queue_time_ms=1e3 * record.queue_seconds,
        generation_time_ms=1e3 * record.generation_seconds,
        mean_itl_ms=1e3 * record.seconds_per_token,
        tokens_per_second=record.tokens_per_second,
        speculative_decoding=SpeculativeDecoding(
            mean_acceptance_length=stats.mean_acceptance_length,
            draft_acceptance_rate=stats.draft_acceptance_rate,
            acceptance_histogram=stats.acceptance_histogram,
            num_spec_steps=stats.num_steps,
            num_accepted_draft_tokens=stats.num_accepted_drafts,
            num_draft_tokens=stats.num_draft_tokens,
        ),
        stages=[stage_metrics_of(stage) for stage in record.stages],
    )


def stage_metrics_of(stage: StageStats) -> StageMetrics:
    """What one stage contributed, to a request or to a step."""
    return StageMetrics(
        name=stage.name,
        proposed=stage.num_proposed,
        accepted=stage.num_accepted,
        guesses=stage.num_guesses,
        confirmed=stage.num_confirmed,
        passes=stage.num_passes,
        milliseconds=stage.milliseconds,
    )
