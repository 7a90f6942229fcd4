"""What a client may ask of a completion, with OpenAI's limits.

A null means the default. Fields that would change the text and are not supported are refused by
name; fields that would not are accepted and ignored.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.protocol.wire import Wire

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
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and not _is_encodable(text) for text in texts):
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


def _is_encodable(text: str) -> bool:
    """JSON can escape half a surrogate pair; no tokenizer can read one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(param: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{reason}", {"param": param, "reason": reason})


def _list_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


Stops = Annotated[list[StopString], BeforeValidator(_list_of_one)]


class StreamOptions(Wire):
    """What a streamed reply says of usage."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class CompletionRequest(Wire):
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
    stop: Stops = Field(default_factory=list, max_length=4)
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=128)
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
