"""What a client may ask of any of the APIs: how tokens are chosen and where a text ends.

A null means the default. What is no field here is read, left aside or refused as `foreign.py` says.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from server.protocol.foreign import HARMLESS, NEUTRAL, own_fields, refusal
from server.protocol.prediction import Prediction
from server.protocol.sampling import SamplingFields, String, TokenId, Whole
from server.protocol.structured import StructureFields
from server.protocol.wire import Wire

MAX_STOP_CHARACTERS = 4096
"""Of all stop strings of a request: what a token of the reply has to be compared with."""


def _list_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _short(stops: list[str]) -> list[str]:
    if (length := sum(map(len, stops))) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"has {length} characters in all, and {MAX_STOP_CHARACTERS} are the most; send fewer"
        )
    return list(dict.fromkeys(stops))


Stops = Annotated[
    list[String],
    BeforeValidator(_list_of_one, json_schema_input_type=str | list[str]),
    AfterValidator(_short),
]


class StreamOptions(Wire):
    """What a streamed reply says of usage."""

    include_usage: bool | None = False
    """One more chunk at the end tells the usage."""
    continuous_usage_stats: bool | None = False
    """Every chunk does, of what has been told so far."""


class TextRequest(SamplingFields, StructureFields):
    """What the bodies of all APIs have in common."""

    # Each name with the values that change nothing; any other value is refused.
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL
    # Names that change nothing, whatever their values.
    harmless: ClassVar[frozenset[str]] = HARMLESS

    model: str | None = None
    """What /v1/models names; whichever is served if left out."""
    max_tokens: Whole | None = Field(default=None, ge=-1)
    """Tokens of the reply at most; -1 writes to the end of the window."""
    stop: Stops = Field(default_factory=list)
    """Strings that end the text and are no part of it, of 4096 characters in all."""
    stop_token_ids: list[TokenId] = Field(default_factory=list, max_length=128)
    """Token ids that end the text."""
    include_stop_str_in_output: bool = False
    """Whether the string that ends a text is told."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""
    ignore_eos: bool = False
    """Whether the text goes on behind the model's own end of text."""
    n: Whole = Field(default=1, ge=1, le=128)
    """Choices for each prompt."""
    priority: Whole = Field(default=0, ge=-(2**31), lt=2**31)
    """Among those who wait the lowest goes first."""
    stream: bool = False
    """Whether the reply comes as server-sent events, chunk by chunk."""
    stream_options: StreamOptions | None = None
    """What a stream tells beside its text."""
    return_token_ids: bool = False
    """Whether token ids are told beside text."""
    return_trace: bool = False
    """Whether a stream tells the tree of every step."""
    speculation: Literal["auto", "always", "off"] = "auto"
    """When a tree is grown: it changes the time and never the text."""
    prediction: Prediction | None = None
    """What the reply may turn out to be, which makes it faster where it does."""
    cache_salt: String | None = None
    """What is remembered of a text is of use only to texts with the same salt."""

    @model_validator(mode="before")
    @classmethod
    def _know_every_name(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return own_fields(data, cls.model_fields, cls.unsupported, cls.harmless)

    @model_validator(mode="after")
    def _refuse_options_of_no_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "is only allowed when stream is true")
        if self.return_trace and not self.stream:
            raise refusal("return_trace", "is told by streams alone; set stream, or leave it out")
        return self
