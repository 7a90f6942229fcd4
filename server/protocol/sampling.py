"""How tokens are chosen: vLLM's names, and llama.cpp's for what vLLM lacks."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from server.protocol.wire import Text, Wire


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
Words = Annotated[list[String], BeforeValidator(_list_of_words)]
TopK = Annotated[Whole, Field(ge=-1, lt=2**31), AfterValidator(_zero_for_all)]
Sigmas = Annotated[float, Field(ge=-1), AfterValidator(_zero_for_all)]


class SamplingFields(Wire):
    """A field by the name of each of `engine.SamplingParams`, which says what they mean.

    What is added there and here, with its limits, reaches the engine without another line; but
    where it gives text, `translate.sampling` reads that as token ids.
    """

    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: Share = 1.0
    top_k: TopK = 0
    min_p: Share = 0.0
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**64)
    typical_p: float = Field(default=1.0, gt=0, le=1)
    top_n_sigma: Sigmas = 0.0
    xtc_probability: Share = 0.0
    xtc_threshold: Share = 0.1
    logit_bias: Bias = Field(default_factory=dict)
    repetition_penalty: float = Field(default=1.0, gt=0)
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    dry_multiplier: float = Field(default=0.0, ge=0)
    dry_base: float = Field(default=1.75, ge=1)
    dry_allowed_length: Whole = Field(default=2, ge=1, lt=2**31)
    dry_penalty_last_n: Whole = Field(default=-1, ge=-1, lt=2**31)
    dry_sequence_breakers: Words = Field(default=["\n", ":", '"', "*"], max_length=64)
    allowed_token_ids: list[TokenId] = Field(default_factory=list)
    bad_words: Words = Field(default_factory=list, max_length=500)
    min_tokens: Whole = Field(default=0, ge=0, lt=2**31)
