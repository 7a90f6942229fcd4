"""What a client may ask of any of the APIs: how tokens are chosen and where a text ends.

A null means the default. Fields that would change the text and are not supported are refused by
name; fields that would not are accepted and ignored.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.protocol.prediction import Prediction
from server.protocol.sampling import SamplingFields, String, TokenId
from server.protocol.wire import Wire

_log = logging.getLogger(__name__)


def _list_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


Stops = Annotated[list[String], BeforeValidator(_list_of_one)]


def refusal(param: str, reason: str) -> PydanticCustomError:
    """A complaint about one field of a body."""
    return PydanticCustomError("refused", "{reason}", {"param": param, "reason": reason})


class StreamOptions(Wire):
    """What a streamed reply says of usage."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class TextRequest(SamplingFields):
    """What the bodies of all APIs have in common."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")
    # Each name with the values that change nothing; any other value is refused.
    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "length_penalty": (1,),
        "use_beam_search": (False,),
        "response_format": ({"type": "text"},),
        "structured_outputs": ({},),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "include_stop_str_in_output": (False,),
        "skip_special_tokens": (True,),
        "truncate_prompt_tokens": (),
    }

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    stop: Stops = Field(default_factory=list, max_length=4)
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=128)
    ignore_eos: bool = False
    n: int = Field(default=1, ge=1, le=128)
    priority: int = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    speculation: Literal["auto", "always", "off"] = "auto"
    prediction: Prediction | None = None
    cache_salt: String | None = None
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _nulls_mean_default(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}

    @model_validator(mode="after")
    def _refuse_what_would_be_ignored(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name not in self.unsupported:
                _log.debug("ignored the field %r of a request", name)
            elif value not in self.unsupported[name]:
                raise refusal(name, "is not supported; leave it out or null")
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "is only allowed when stream is true")
        return self
