"""The nouns that cross the engine's doors: what is asked of it, and what it answers.

Plain frozen dataclasses of token ids and numbers. Nothing here knows of text, HTTP or torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from engine.stats import SpeculationStats, StepStats

Speculation = Literal["auto", "always", "off"]
FinishReason = Literal["stop", "length", "cancelled"]

TARGET = "target"
"""The origin of a token that no stage proposed: the bonus token of a step."""
PREDICTION = "prediction"
"""The origin of a token that a request's own prediction proposed."""
PROMPT = "prompt"
"""That of a token that was given."""
GRAMMAR = "grammar"
"""That of a token that was the only one its constraint left."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target's token is chosen; `temperature` 0 is greedy, `top_k` 0 keeps every token.

    `seed` is any 64-bit integer. The same seed gives the same text with speculation on or off.

    Edits of the logits come first, at any temperature, then filters, and noise decides. What each
    does, in which order, and what of it differs elsewhere is told in `docs/sampling.md`. Words and
    breakers are token ids; a `dry_penalty_last_n` of -1 is the whole text.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[int, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0

    @property
    def is_greedy(self) -> bool:
        """True where the noise is zero and the division by temperature is left out."""
        return self.temperature < 1e-5

    @property
    def is_filtered(self) -> bool:
        """Whether any token may be left out for being unlikely."""
        is_cut = self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0
        return is_cut or self.typical_p < 1.0 or self.top_n_sigma > 0.0

    @property
    def is_excluding(self) -> bool:
        """Whether XTC may leave out tokens for being likely; no two are above half of all."""
        return self.xtc_probability > 0.0 and self.xtc_threshold <= 0.5

    @property
    def is_penalised(self) -> bool:
        """Whether a token's own logit depends on how often it is there already."""
        is_counted = self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        return is_counted or self.repetition_penalty != 1.0

    @property
    def is_dry(self) -> bool:
        """Whether what would go on with a repetition is penalised."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n != 0


ConstraintKind = Literal["json_schema", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a reply may be, by the kind of its `source`.

    A JSON schema; a regular expression, of the whole reply; a JSON list of strings, one of which it
    is; an EBNF grammar (llama.cpp's GBNF) with a rule `root`; an xgrammar structural tag, as JSON.
    """

    kind: ConstraintKind
    source: str


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to continue: a prompt of at least one token id, and where to stop.

    `stop_token_ids` end the text and are its last token; the model's own EOS ids are added by the
    engine unless `ignore_eos`. `num_logprobs` is None for no log-probabilities, else how many
    alternatives to report beside the chosen token (0 for none); `num_prompt_logprobs` is the same
    of the prompt's tokens, which are then read anew, whatever of them is known. A reply of 0
    `max_tokens` leaves the prompt read. Whatever is remembered of a text is of use to texts with
    the same `cache_salt` alone. `prediction` is what the reply may turn out to be, in whole or in
    parts, which a look-up stage proposes to this text alone. A reply under a `constraint` is what
    that allows, and ends where it must. The steps of a text that `is_traced` tell their trees.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    speculation: Speculation = "auto"
    cache_salt: str | None = None
    prediction: tuple[int, ...] = ()
    is_traced: bool = False
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class EmittedToken:
    """A token of the reply, with the name of the lowest stage that proposed it (or `target`).

    Log-probabilities are natural logarithms of the target's unfiltered softmax at temperature 1;
    None when the request did not ask for them. `top_logprobs` lists alternatives, best first.
    A prompt's tokens have the same, but for its first, which follows nothing.
    """

    token_id: int
    origin: str = TARGET
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """One grow-score-accept-commit cycle: at least one token, all of which the reply keeps.

    Of a reply of no tokens there is one without. `num_cached_tokens` is told by the first step: how
    many of the prompt's tokens still had their rows in the cache from an earlier request. So are
    the tokens of the `prompt`, where their log-probabilities were asked for. The text is written at
    the `seat` of this number.
    """

    request_id: str
    tokens: tuple[EmittedToken, ...]
    stats: StepStats
    num_cached_tokens: int = 0
    prompt: tuple[EmittedToken, ...] = ()
    seat: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request: why it ended and the fold of its steps' statistics.

    `stop_token_id` is the id that ended the text when `reason` is "stop"; None where nothing but
    the end was left to a constrained text, and for any other reason.
    """

    request_id: str
    reason: FinishReason
    stats: SpeculationStats
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """What a step has brought of one request: an output, its end, or the last output and its end.

    So whoever reads the last tokens knows that they are, and which of them ended the text.
    """

    request_id: str
    output: Output | None = None
    finished: Finished | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded engine says of itself; `max_model_len` bounds prompt plus reply, in tokens.

    `precision` is why the target has its `dtype`, and `precisions` are those of all networks, by
    the names of `passes`. So many texts are written at once as there are `num_seats`, and `seating`
    says why. `passes` tells how those of the target and of
    each stage with a network are run now, "eager", "compiled" or "captured", and `is_compiling`
    whether that may still change; `refusals` says, by the same names, why some stay eager.
    `fingerprint` is of the target's weights.
    """

    model: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str
    num_parameters: int
    stages: tuple[str, ...]
    passes: dict[str, str] = field(default_factory=dict)
    is_compiling: bool = False
    precision: str = ""
    precisions: dict[str, str] = field(default_factory=dict)
    num_seats: int = 1
    seating: str = ""
    refusals: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class TokenizerState:
    """A model's tokenizer as transformers feeds it, and the ids that end a text to it.

    `json` is the content of a `tokenizer.json`, which has no room for `splits_special_tokens`:
    whether a special token that is written out in a text is text like any other. `chat_templates`
    are Jinja sources by name, and read the `special_tokens`, such as `bos_token`, by theirs.
    """

    json: str
    eos_token_ids: tuple[int, ...] = ()
    splits_special_tokens: bool = False
    chat_templates: dict[str, str] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far loading has come: a phase in words, and the share done, from 0 to 1."""

    phase: str
    progress: float
