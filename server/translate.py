"""The only room that knows both vocabularies: OpenAI's requests and the engine's.

A completion request becomes one engine request per sequence; a record of what happened becomes
the reply's usage and metrics.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from engine import GenerateRequest, ModelInfo, SamplingParams
from server.errors import BadRequestError, ContextLengthError
from server.protocol import (
    CompletionRequest,
    PromptTokensDetails,
    RequestMetrics,
    SpeculativeDecoding,
    StageMetrics,
    Usage,
)
from server.record import RequestRecord
from server.settings import Settings

_log = logging.getLogger(__name__)

_MASK = 2**64 - 1
# A JSON reader that keeps numbers as doubles must be able to send a reported seed back.
_SEED_BITS = 53

Encode = Callable[[str, bool], list[int]]
"""Text, and whether to add the model's special tokens, to token ids."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated request: its sequences in the order of their choices' indices."""

    request_id: str
    model: str
    sequences: tuple[GenerateRequest, ...]
    num_prompt_tokens: int
    stage_names: tuple[str, ...]
    stops: tuple[str, ...]
    wants_usage: bool
    wants_running_usage: bool
    wants_token_ids: bool


def plan_completion(
    body: CompletionRequest,
    request_id: str,
    info: ModelInfo,
    encode: Encode,
    settings: Settings,
) -> Plan:
    """Check a request against the model and part it into sequences; raises ApiError."""
    if body.logprobs is not None and body.logprobs > settings.max_logprobs:
        raise BadRequestError(
            f"logprobs: at most {settings.max_logprobs} are given", param="logprobs"
        )
    if any(token_id >= info.vocab_size for token_id in body.stop_token_ids):
        raise BadRequestError("stop_token_ids: outside the vocabulary", param="stop_token_ids")
    prompts = _prompts(body, info, encode)
    if len(prompts) * body.n > settings.max_sequences:
        raise BadRequestError(
            f"prompt: {len(prompts)} prompts with n={body.n} exceed the limit of "
            f"{settings.max_sequences} sequences in a request",
            param="prompt",
        )
    seed = secrets.randbits(_SEED_BITS) if body.seed is None else body.seed
    sequences = [
        _sequence(
            body, f"{request_id}-{at * body.n + k}", prompt, mix_seed(seed, k), info, settings
        )
        for at, prompt in enumerate(prompts)
        for k in range(body.n)
    ]
    options = body.stream_options
    return Plan(
        request_id=request_id,
        model=settings.model_id,
        sequences=tuple(sequences),
        num_prompt_tokens=sum(map(len, prompts)),
        stage_names=info.stages,
        stops=tuple(body.stop),
        wants_usage=not body.stream or bool(options and options.include_usage),
        wants_running_usage=bool(options and options.continuous_usage_stats),
        wants_token_ids=body.return_token_ids,
    )


def mix_seed(seed: int, k: int) -> int:
    """The seed of choice `k`: the seed itself for 0, else splitmix64's k-th output, cut to 53 bits.

    splitmix64 steps by an odd constant, so neighbouring seeds do not share their choices.
    """
    if k == 0:
        return seed
    z = (seed + k * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> (64 - _SEED_BITS)


def usage_of(record: RequestRecord) -> Usage:
    """OpenAI's usage; its prediction tokens are left out, as they mean a client's own draft."""
    return Usage(
        prompt_tokens=record.num_prompt_tokens,
        completion_tokens=record.num_completion_tokens,
        total_tokens=record.num_prompt_tokens + record.num_completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=record.num_cached_tokens),
    )


def metrics_of(record: RequestRecord) -> RequestMetrics:
    """vLLM's per-request metrics, with what each stage contributed."""
    stats = record.stats
    seconds = record.generation_seconds
    return RequestMetrics(
        time_to_first_token_ms=1e3 * record.first_token_seconds,
        queue_time_ms=1e3 * record.queue_seconds,
        generation_time_ms=1e3 * seconds,
        mean_itl_ms=1e3 * record.seconds_per_token,
        tokens_per_second=record.num_completion_tokens / seconds if seconds else 0.0,
        speculative_decoding=SpeculativeDecoding(
            mean_acceptance_length=stats.mean_acceptance_length,
            draft_acceptance_rate=stats.draft_acceptance_rate,
            acceptance_histogram=stats.acceptance_histogram,
            num_spec_steps=stats.num_steps,
            num_accepted_draft_tokens=stats.num_accepted_drafts,
            num_draft_tokens=stats.num_draft_tokens,
        ),
        stages=[
            StageMetrics(
                name=stage.name,
                proposed=stage.num_proposed,
                accepted=stage.num_accepted,
                guesses=stage.num_guesses,
                confirmed=stage.num_confirmed,
                passes=stage.num_passes,
                milliseconds=stage.milliseconds,
            )
            for stage in record.stages
        ],
    )


def _prompts(body: CompletionRequest, info: ModelInfo, encode: Encode) -> list[tuple[int, ...]]:
    """The prompts as token ids, whichever of the four shapes they came in."""
    shaped: list[object] = list(body.prompt) if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(shaped[0], int):
        shaped = [shaped]
    return [_token_ids(item, body.add_special_tokens, info, encode) for item in shaped]


def _token_ids(
    prompt: object, add_special_tokens: bool, info: ModelInfo, encode: Encode
) -> tuple[int, ...]:
    if isinstance(prompt, str):
        # An empty prompt starts where the model's own texts start, as GPT-2's <|endoftext|> does.
        ids = encode(prompt, add_special_tokens) or list(info.eos_token_ids[:1])
    else:
        assert isinstance(prompt, list)
        ids = prompt
    if not ids:
        raise BadRequestError("prompt: is empty, and this model has no start token", param="prompt")
    strange = next((token for token in ids if not 0 <= token < info.vocab_size), None)
    if strange is not None:
        raise BadRequestError(
            f"prompt: token id {strange} is outside the vocabulary of {info.vocab_size}",
            param="prompt",
        )
    return tuple(ids)


def _sequence(
    body: CompletionRequest,
    request_id: str,
    prompt: tuple[int, ...],
    seed: int,
    info: ModelInfo,
    settings: Settings,
) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        prompt=prompt,
        max_tokens=_clamp(body.max_tokens or settings.default_max_tokens, len(prompt), info),
        sampling=SamplingParams(
            temperature=body.temperature,
            top_k=max(0, body.top_k),
            top_p=body.top_p,
            min_p=body.min_p,
            seed=seed,
        ),
        stop_token_ids=(*body.stop_token_ids, *(() if body.ignore_eos else info.eos_token_ids)),
        ignore_eos=body.ignore_eos,
        num_logprobs=body.logprobs,
        speculation=body.speculation,
    )


def _clamp(max_tokens: int, num_prompt: int, info: ModelInfo) -> int:
    room = info.max_model_len - num_prompt
    if room < 1:
        raise ContextLengthError(
            f"This model's window is {info.max_model_len} tokens; the prompt has {num_prompt} and "
            "leaves no room for a reply. Shorten the prompt.",
            param="prompt",
        )
    if max_tokens > room:
        _log.info("max_tokens %d cut to the %d that the window leaves", max_tokens, room)
    return min(max_tokens, room)
