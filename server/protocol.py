"""The OpenAI completions wire as pydantic models. Nothing here knows of tokens or engines.

A null means the default. Fields that would change the text and are not supported are refused by
name; fields that would not are accepted and ignored.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

_log = logging.getLogger(__name__)

Prompt = str | list[str] | list[int] | list[list[int]]
StopString = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]

# Each name with the values that change nothing; any other value is refused.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "suffix": ("",),
    "echo": (False,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "allowed_token_ids": ([],),
    "bad_words": ([], ""),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
    "prompt_logprobs": (),
}


def _check_prompt(value: object) -> object:
    """One readable message instead of one per member of the union."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        kinds = {type(item) for item in value}
        if kinds == {list} and all(value):
            kinds = {list, *(type(token) for tokens in value for token in tokens)}
        if kinds in ({str}, {int}, {list, int}):
            return value
    raise ValueError(
        "must be a string, a list of strings, a list of token ids, or a list of lists of token "
        "ids, and no list may be empty"
    )


def _refusal(param: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{reason}", {"param": param, "reason": reason})


def _list_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class StreamOptions(_Wire):
    """What a streamed reply says of usage."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class CompletionRequest(_Wire):
    """The body of `POST /v1/completions`, with OpenAI's limits."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")

    prompt: Annotated[Prompt, BeforeValidator(_check_prompt)]
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[StopString], Field(max_length=4), BeforeValidator(_list_of_one)] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] = []
    ignore_eos: bool = False
    n: int = Field(default=1, ge=1, le=128)
    best_of: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    add_special_tokens: bool = True
    return_token_ids: bool = False
    speculation: Literal["auto", "always", "off"] = "auto"
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _nulls_mean_default(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        return {"prompt": "", **given} if "prompt" in data else given

    @model_validator(mode="after")
    def _refuse_what_would_be_ignored(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name not in UNSUPPORTED:
                _log.debug("ignored the field %r of a completion request", name)
            elif value not in UNSUPPORTED[name]:
                raise _refusal(name, "is not supported; leave it out or null")
        if self.best_of is not None and self.best_of > self.n:
            raise _refusal("best_of", "larger than n is not supported; leave it out or null")
        if self.max_tokens == 0:
            raise _refusal("max_tokens", "0 asks for no text, and echo is not supported")
        if self.stream_options is not None and not self.stream:
            raise _refusal("stream_options", "is only allowed when stream is true")
        return self


class Logprobs(_Wire):
    """The four parallel lists of a choice's log-probabilities."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(_Wire):
    """One choice, whole or the piece of it that a chunk carries; `seed` reproduces it."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | int | None
    seed: int
    token_ids: list[int] | None = Field(default=None, exclude_if=lambda ids: ids is None)


class PromptTokensDetails(_Wire):
    """How many prompt tokens were still in the engine's cache."""

    cached_tokens: int


class CompletionTokensDetails(_Wire):
    """Draft tokens that the target agreed with, and those it did not."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(_Wire):
    """Token counts of a request; each prompt counts once, whatever `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class SpeculativeDecoding(_Wire):
    """Acceptance over a request's steps; the mean length counts the bonus token, nothing else."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int


class StageMetrics(_Wire):
    """What one draft stage contributed to a request."""

    name: str
    proposed: int
    accepted: int
    guesses: int
    confirmed: int
    passes: int
    milliseconds: float


class RequestMetrics(_Wire):
    """What a request learned about itself, in vLLM's shape, with `stages` beside it."""

    time_to_first_token_ms: float
    queue_time_ms: float
    generation_time_ms: float
    mean_itl_ms: float
    tokens_per_second: float
    speculative_decoding: SpeculativeDecoding
    stages: list[StageMetrics]


class Completion(_Wire):
    """A whole reply, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = Field(default=None, exclude_if=lambda usage: usage is None)
    metrics: RequestMetrics | None = Field(default=None, exclude_if=lambda metrics: metrics is None)


class ModelCard(_Wire):
    """One entry of `GET /v1/models`; `root` is what was loaded, under whatever `id`.

    The window is null until the model has loaded.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stagetree"] = "stagetree"
    root: str
    max_model_len: int | None


class ModelList(_Wire):
    """The body of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(_Wire):
    """What went wrong; `param` names the field at fault, `code` the kind of failure."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Wire):
    """OpenAI's error envelope."""

    error: ErrorBody
