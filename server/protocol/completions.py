"""`POST /v1/completions`: what a client may ask of it, with OpenAI's limits, and its reply."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from server.protocol.request import TextRequest, refusal
from server.protocol.usage import RequestMetrics, Usage
from server.protocol.wire import Wire, is_encodable


def _check_prompt(value: object) -> object:
    """One readable message instead of one per member of the union."""
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and not is_encodable(text) for text in texts):
        raise ValueError("holds half a surrogate pair, which is no text")
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


Prompt = Annotated[str | list[str] | list[int] | list[list[int]], BeforeValidator(_check_prompt)]


class CompletionRequest(TextRequest):
    """The body of `POST /v1/completions`."""

    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        **TextRequest.unsupported,
        "suffix": ("",),
        "echo": (False,),
        "prompt_embeds": (),
        "prompt_logprobs": (),
    }

    prompt: Prompt
    best_of: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0)
    add_special_tokens: bool = True

    @model_validator(mode="before")
    @classmethod
    def _a_null_prompt_is_empty(cls, data: object) -> object:
        is_null = isinstance(data, dict) and data.get("prompt", "") is None
        return {**data, "prompt": ""} if is_null and isinstance(data, dict) else data

    @model_validator(mode="after")
    def _refuse_the_best_of_more(self) -> Self:
        if self.best_of is not None and self.best_of > self.n:
            raise refusal("best_of", "larger than n is not supported; leave it out or null")
        return self


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


class Completion(Wire):
    """A whole reply, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = Field(default=None, exclude_if=lambda usage: usage is None)
    metrics: RequestMetrics | None = Field(default=None, exclude_if=lambda metrics: metrics is None)
