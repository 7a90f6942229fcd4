"""`POST /infill`: llama-server's fill-in-the-middle, as editors speak it, and its reply."""

from typing import Any

from pydantic import Field, RootModel

from server.protocol.request import TextRequest
from server.protocol.sampling import Whole
from server.protocol.wire import Text, Wire, examples


class ExtraFile(Wire):
    """A part of another file, which the model reads before the gap."""

    text: Text = ""
    """What is in it."""
    filename: Text = "tmp"
    """Its name."""


class InfillRequest(TextRequest):
    """The body of `POST /infill`; `prompt` stands at the end of the prefix.

    The order of samplers is that of docs/sampling.md, whatever `samplers` says, and `n_predict` and
    `stop` bound a reply, whatever the limits of time and indentation: editors always send all.
    """

    model_config = examples(
        {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 16},
        {
            "input_prefix": "def test_add():\n",
            "input_suffix": "",
            "prompt": "    assert ",
            "input_extra": [{"filename": "add.py", "text": "def add(a, b): ..."}],
            "max_tokens": 8,
            "stream": True,
        },
    )

    input_prefix: Text = ""
    """What stands before the gap."""
    input_suffix: Text = ""
    """What stands behind it."""
    input_extra: list[ExtraFile] = Field(default_factory=list, max_length=1024)
    """Parts of other files."""
    prompt: Text = ""
    """The end of what stands before the gap."""
    samplers: list[str] | str = Field(default_factory=list)
    """Changes nothing."""
    n_indent: Whole = 0
    """Changes nothing."""
    t_max_prompt_ms: float = 0
    """Changes nothing."""
    t_max_predict_ms: float = 0
    """Changes nothing."""
    response_fields: list[str] = Field(default_factory=list, max_length=64)
    """Tells these parts of the reply alone, such as `timings/prompt_n`."""


class Timings(Wire):
    """llama-server's times, in milliseconds."""

    cache_n: int
    """Prompt tokens that were known."""
    prompt_n: int
    """Prompt tokens that were read."""
    prompt_ms: float
    """Reading them, in milliseconds."""
    prompt_per_token_ms: float
    """The same for one."""
    prompt_per_second: float
    """How many in a second."""
    predicted_n: int
    """Tokens that were written."""
    predicted_ms: float
    """Writing them, in milliseconds."""
    predicted_per_token_ms: float
    """The same for one."""
    predicted_per_second: float
    """How many in a second."""
    draft_n: int
    """Drafted tokens."""
    draft_n_accepted: int
    """Of these, the accepted ones."""


class InfillReply(Wire):
    """llama-server's reply: what stands in the gap, and how long that took."""

    index: int = 0
    """Which of the choices it is."""
    content: str
    """What stands in the gap."""
    id_slot: int = 0
    """Always 0."""
    stop: bool = True
    """Whether it is over."""
    model: str
    """The model's public name."""
    tokens_predicted: int
    """Tokens that were written."""
    tokens_evaluated: int
    """Tokens of the prompt."""
    tokens_cached: int
    """Tokens that are remembered."""
    truncated: bool
    """Always false."""
    stop_type: str
    """Why it ended: `eos`, `word` or `limit`."""
    stopping_word: str
    """The stop string that ended it."""
    generation_settings: dict[str, int]
    """The window, as `n_ctx`."""
    timings: Timings
    """How long it took."""


class InfillChunk(Wire):
    """A piece of what stands in the gap; the last event of a stream is the whole reply without."""

    index: int
    """Which of the choices it is of."""
    content: str
    """More of what stands in the gap."""
    stop: bool = False
    """Whether it is over."""


class ChosenFields(RootModel[dict[str, Any]]):
    """Parts of a reply by their paths, such as `timings/prompt_n`."""


class InfillReplies(RootModel[list[InfillReply | ChosenFields]]):
    """The replies of a body with `n` (`n_cmpl`) above 1."""
