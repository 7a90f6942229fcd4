"""What the server answers: completions, models and errors, as OpenAI shapes them."""

from typing import Literal

from pydantic import Field

from server.protocol.wire import Wire


class Logprobs(Wire):
    """The four parallel lists of a choice's log-probabilities."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(Wire):
    """One choice, whole or the piece of it that a chunk carries; `seed` reproduces it."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | int | None
    seed: int
    token_ids: list[int] | None = Field(default=None, exclude_if=lambda ids: ids is None)


class PromptTokensDetails(Wire):
    """How many prompt tokens were still in the engine's cache."""

    cached_tokens: int


class Usage(Wire):
    """Token counts of a request; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class SpeculativeDecoding(Wire):
    """Acceptance over a request's steps; the mean length counts the bonus token, nothing else."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int


class StageMetrics(Wire):
    """What one draft stage contributed to a request."""

    name: str
    proposed: int
    accepted: int
    guesses: int
    confirmed: int
    passes: int
    milliseconds: float


class RequestMetrics(Wire):
    """What a request learned about itself, in vLLM's shape, with `stages` beside it."""

    time_to_first_token_ms: float
    queue_time_ms: float
    generation_time_ms: float
    mean_itl_ms: float
    tokens_per_second: float
    speculative_decoding: SpeculativeDecoding
    stages: list[StageMetrics]


class Completion(Wire):
    """A whole reply, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = Field(default=None, exclude_if=lambda usage: usage is None)
    metrics: RequestMetrics | None = Field(default=None, exclude_if=lambda metrics: metrics is None)


class ModelCard(Wire):
    """One entry of `GET /v1/models`; `root` is what was loaded, under whatever `id`.

    The window is null until the model has loaded.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stagetree"] = "stagetree"
    root: str
    max_model_len: int | None


class ModelList(Wire):
    """The body of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(Wire):
    """What went wrong; `param` names the field at fault, `code` the kind of failure."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Wire):
    """OpenAI's error envelope."""

    error: ErrorBody
