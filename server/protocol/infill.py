"""`POST /infill`: llama-server's fill-in-the-middle, as editors speak it, and its reply."""

from typing import Any, Self

from pydantic import Field, RootModel, model_validator

from server.protocol.foreign import refusal
from server.protocol.request import TextRequest
from server.protocol.sampling import Whole
from server.protocol.wire import Text, Wire


class ExtraFile(Wire):
    """A part of another file, which the model reads before the gap."""

    text: Text = ""
    filename: Text = "tmp"


class InfillRequest(TextRequest):
    """The body of `POST /infill`; `prompt` stands at the end of the prefix.

    The order of samplers is that of docs/sampling.md, whatever `samplers` says, and `n_predict` and
    `stop` bound a reply, whatever the limits of time and indentation: editors always send all.
    """

    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: list[ExtraFile] = Field(default_factory=list, max_length=1024)
    prompt: Text = ""
    samplers: list[str] | str = Field(default_factory=list)
    n_indent: Whole = 0
    t_max_prompt_ms: float = 0
    t_max_predict_ms: float = 0
    response_fields: list[str] = Field(default_factory=list, max_length=64)

    @model_validator(mode="after")
    def _refuse_a_stream(self) -> Self:
        if self.stream:
            raise refusal("stream", "is not supported here; ask /v1/completions with a suffix")
        if self.n > 1:
            raise refusal("n", "is one here; ask /v1/completions with a suffix")
        return self


class Timings(Wire):
    """llama-server's times, in milliseconds."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class InfillReply(Wire):
    """llama-server's reply: what stands in the gap, and how long that took."""

    index: int = 0
    content: str
    id_slot: int = 0
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    truncated: bool
    stop_type: str
    stopping_word: str
    generation_settings: dict[str, int]
    timings: Timings


class ChosenFields(RootModel[dict[str, Any]]):
    """Parts of a reply by their paths, such as `timings/prompt_n`."""
