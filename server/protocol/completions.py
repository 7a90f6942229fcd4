"""`POST /v1/completions`: what a client may ask of it, with OpenAI's limits, and its reply."""

from itertools import chain
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from server.protocol.foreign import refusal
from server.protocol.request import TextRequest
from server.protocol.sampling import Whole
from server.protocol.trace import TracedStep
from server.protocol.usage import ReplyHead, RequestMetrics, Usage
from server.protocol.wire import Text, Wire, examples, is_encodable, unless_none

MAX_PROMPTS, MAX_IDS = 4096, 2**19
"""What is more than any server runs is not worth looking at."""


def _check_prompt(value: object) -> object:
    """One readable message instead of one per member of the union; sizes come first."""
    if isinstance(value, list):
        _check_sizes(value)
    shapes = value if isinstance(value, list) else [value]
    kinds = set(map(type, shapes))
    if str in kinds and not all(map(is_encodable, shapes)):
        raise ValueError("holds half a surrogate pair, which is no text")
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and _kind_of(value) in (str, int):
        return value
    raise ValueError(
        "must be a string, a list of strings, a list of token ids, or a list of lists of token "
        "ids, and no list may be empty"
    )


def _kind_of(prompts: list[object]) -> object:
    """The type of all that is in a list, or in its lists; None if there are several."""
    kinds = set(map(type, prompts))
    if kinds == {list} and all(prompts):
        inner = set(map(type, chain.from_iterable(prompts)))  # type: ignore[arg-type]
        kinds = inner if inner == {int} else set()
    return kinds.pop() if len(kinds) == 1 else None


_Shapes = str | list[str] | list[int] | list[list[int]]
Prompt = Annotated[_Shapes, PlainValidator(_check_prompt, json_schema_input_type=_Shapes)]
"""Of any shape; each is looked at once."""


def _check_sizes(prompts: list[object]) -> None:
    """Raise ValueError for more than is worth looking at."""
    is_ids = bool(prompts) and isinstance(prompts[0], int)
    most = MAX_IDS if is_ids else MAX_PROMPTS
    if len(prompts) > most:
        raise ValueError(f"has {len(prompts)} items, and {most} are the most; send fewer")
    if is_ids:
        return
    num_ids = sum(len(each) for each in prompts if isinstance(each, list))
    if num_ids > MAX_IDS:
        raise ValueError(f"has {num_ids} token ids, and {MAX_IDS} are the most; send fewer")


class CompletionRequest(TextRequest):
    """The body of `POST /v1/completions`."""

    model_config = examples(
        {"prompt": "def fibonacci(n):", "max_tokens": 32, "temperature": 0},
        {"prompt": "def hello(", "stream": True, "stop": ["\n\n"], "seed": 7, "top_p": 0.9},
        {"prompt": "hello world", "max_tokens": 0, "echo": True, "logprobs": 1},
        {"prompt": [[5, 6, 7], [8, 9]], "n": 2, "logit_bias": {"5": -100}, "max_tokens": 4},
    )

    prompt: Prompt
    """A text, several, token ids, or several lists of these."""
    suffix: Text = ""
    """What follows the gap that is to be filled, for models with tokens for it."""
    best_of: Whole | None = Field(default=None, ge=1, le=20)
    """So many choices are written, of which the n likeliest by the token are told."""
    logprobs: Whole | None = Field(default=None, ge=0)
    """Log-probabilities of the reply's tokens, with so many alternatives each."""
    prompt_logprobs: Whole | None = Field(default=None, ge=0)
    """The same of the prompt's tokens."""
    echo: bool = False
    """Whether the prompt is told again, before the reply."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds what it begins texts with."""
    truncate_prompt_tokens: Whole | None = Field(default=None, ge=-1)
    """Keeps so many of the prompt's last tokens; -1 as many as fit."""

    @model_validator(mode="before")
    @classmethod
    def _a_null_prompt_is_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        if data.get("messages") is not None:
            raise refusal("messages", "is a chat: send this body to /v1/chat/completions")
        return {**data, "prompt": ""} if data.get("prompt", "") is None else data

    @model_validator(mode="after")
    def _refuse_what_contradicts(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise refusal("best_of", "must be n or more; raise it, or leave it out")
        if self.stream and (self.best_of or 0) > self.n:
            raise refusal("best_of", "is known at the end alone; leave stream out")
        if self.stream and self.prompt_logprobs is not None:
            raise refusal("prompt_logprobs", "is of no chunk; leave stream out, or ask for echo")
        if self.suffix and self.echo:
            raise refusal("suffix", "has no echo; leave one of the two out")
        if self.truncate_prompt_tokens == 0:
            raise refusal("truncate_prompt_tokens", "must be 1 or more, or -1 for the window")
        return self


class Logprobs(Wire):
    """The four parallel lists of a choice's log-probabilities; a prompt's first token has none.

    They are of the model's own distribution, before temperature, filters, penalties and bans.
    """

    tokens: list[str]
    """The text of each token."""
    token_logprobs: list[float | None]
    """The logarithm of each one's probability."""
    top_logprobs: list[dict[str, float] | None]
    """Alternatives by their text; the token itself is among them."""
    text_offset: list[int]
    """Where in the choice's text each token begins, in characters."""


class PromptLogprob(Wire):
    """A token that might stand at a place of the prompt; `rank` 1 is the likeliest."""

    logprob: float
    """The logarithm of its probability."""
    rank: int | None
    """Its place among the likeliest; null beyond those that were asked for."""
    decoded_token: str
    """Its text."""


class Choice(Wire):
    """One choice, whole or the piece of it that a chunk carries; `seed` reproduces it."""

    index: int
    """Which of the request's choices it is."""
    text: str
    """The text, or what a chunk adds to it."""
    logprobs: Logprobs | None
    """Those of its tokens, if they were asked for."""
    finish_reason: Literal["stop", "length"] | None
    """Whether it ended by itself or was cut; null in a chunk before the last."""
    stop_reason: str | int | None
    """The stop string, or the token id, that ended it."""
    seed: int
    """What writes this choice again."""
    token_ids: list[int] | None = unless_none()
    """The ids of its tokens, if they were asked for."""
    prompt_token_ids: list[int] | None = unless_none()
    """Those of its prompt, if they were asked for."""
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = unless_none()
    """For each token of the prompt alternatives by id; null for the first."""
    trace: list[TracedStep] | None = unless_none()
    """The steps that this came from, if they were asked for."""


class Completion(ReplyHead):
    """A whole reply, or one chunk of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    """What this is."""
    choices: list[Choice]
    """Each prompt's, one prompt after another."""
    usage: Usage | None = unless_none()
    """How many tokens it took."""
    metrics: RequestMetrics | None = unless_none()
    """What the request learned about itself."""


class UsageChunk(Completion):
    """A chunk of a stream that has asked for usage, which is null until the last one."""

    usage: Usage | None = None
    """Null but in the last chunk, unless running usage was asked for."""
