"""How tokens are chosen: vLLM's names, and llama.cpp's for what vLLM lacks."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from server.protocol.wire import Text, Wire

_MOST_CHARACTERS = 2**16
"""Of all words of a field together."""


def _zero_for_all(number: float) -> float:
    """-1 keeps every token, as 0 does."""
    return max(0, number)


def _by_number(value: object) -> object:
    """Token ids, which are strings where JSON has them as names."""
    if not isinstance(value, dict):
        return {} if value == [] else value
    if not all(isinstance(token, str) and token.isdecimal() for token in value):
        raise ValueError("must map token ids, written in digits, to numbers from -100 to 100")
    return {int(token): bias for token, bias in value.items()}


def _short(words: list[str]) -> list[str]:
    """Each is spelled in tokens, and all together are to be no long text."""
    if (size := sum(map(len, words))) > _MOST_CHARACTERS:
        raise ValueError(f"has {size} characters in all, and {_MOST_CHARACTERS} are the most")
    return words


def _list_of_words(value: object) -> object:
    """A word stands for a list of it, and the empty one for none, as vLLM has it."""
    return ([value] if value else []) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """JavaScript and Lua write 16.0 for 16."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
String = Annotated[Text, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_by_number)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Words = Annotated[
    list[String],
    BeforeValidator(_list_of_words, json_schema_input_type=str | list[str]),
    AfterValidator(_short),
]
TopK = Annotated[Whole, Field(ge=-1, lt=2**31), AfterValidator(_zero_for_all)]
Sigmas = Annotated[float, Field(ge=-1), AfterValidator(_zero_for_all)]


class SamplingFields(Wire):
    """A field by the name of each of `engine.SamplingParams`, which says what they mean.

    What is added there and here, with its limits, reaches the engine without another line; but
    where it gives text, `translate.sampling` reads that as token ids.
    """

    temperature: float = Field(default=1.0, ge=0, le=100)
    """Logits are divided by it; 0 takes the best token each time."""
    top_p: Share = 1.0
    """Keeps the likeliest tokens up to this mass; 1 keeps all."""
    top_k: TopK = 0
    """Keeps so many of the likeliest; 0 or -1 keeps all."""
    min_p: Share = 0.0
    """Keeps what has at least this share of the likeliest's probability."""
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**64)
    """Any 64-bit integer; the same one gives the same text. Random if left out, and told."""
    typical_p: float = Field(default=1.0, gt=0, le=1)
    """Keeps the tokens whose surprise is nearest to what is expected, up to this mass."""
    top_n_sigma: Sigmas = 0.0
    """Keeps what is within so many standard deviations of the best logit; 0 keeps all."""
    xtc_probability: Share = 0.0
    """XTC: in such a share of positions only the least likely of likely tokens stays."""
    xtc_threshold: Share = 0.1
    """What XTC takes for likely."""
    logit_bias: Bias = Field(default_factory=dict)
    """Added to the logits of tokens, by their ids."""
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Of every token of prompt and reply: divides a logit above 0, multiplies others."""
    frequency_penalty: Penalty = 0.0
    """Subtracted for every time that a token is in the reply."""
    presence_penalty: Penalty = 0.0
    """Subtracted once from a token that is in the reply."""
    dry_multiplier: float = Field(default=0.0, ge=0)
    """DRY: how much is subtracted from what would go on with a repetition; 0 is off."""
    dry_base: float = Field(default=1.75, ge=1)
    """DRY: what each further token of a repetition multiplies the penalty by."""
    dry_allowed_length: Whole = Field(default=2, ge=1, lt=2**31)
    """DRY: the shortest repetition that is penalised, in tokens."""
    dry_penalty_last_n: Whole = Field(default=-1, ge=-1, lt=2**31)
    """DRY: how many of the last tokens it looks at; -1 for all."""
    dry_sequence_breakers: Words = Field(default=["\n", ":", '"', "*"], max_length=64)
    """DRY: no repetition reaches back over a token that has one of these in it."""
    allowed_token_ids: list[TokenId] = Field(default_factory=list)
    """All other tokens are forbidden; none are if it is empty."""
    bad_words: Words = Field(default_factory=list, max_length=500)
    """Words that are not written, alone or after a space."""
    min_tokens: Whole = Field(default=0, ge=0, lt=2**31)
    """Tokens before which the text does not end by itself."""
