"""`/tokenize`, `/detokenize` and `/tokenizer_info`: in vLLM's words, and in llama-server's."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from server.protocol.foreign import own_fields, refusal
from server.protocol.sampling import TokenId
from server.protocol.wire import Text, Wire, examples

_LLAMA_SERVERS: Mapping[str, tuple[Any, ...]] = {"parse_special": (True,), "with_pieces": (False,)}
"""What its clients may say, if it changes nothing here."""


class TokensRequest(Wire):
    """What both bodies have in common: no name in them is ignored."""

    model: str | None = None
    """What /v1/models names; whichever is served if left out."""

    @model_validator(mode="before")
    @classmethod
    def _know_every_name(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return own_fields(data, cls.model_fields, _LLAMA_SERVERS)


class TokenizeRequest(TokensRequest):
    """A text: vLLM's clients call it `prompt`, llama-server's `content`."""

    model_config = examples({"prompt": "hello world"}, {"content": "hello", "add_special": True})

    prompt: Text | None = None
    """A text, as vLLM's clients call it."""
    content: Text | None = None
    """A text, as llama-server's clients call it."""
    add_special_tokens: bool | None = None
    """Whether the tokenizer adds what it begins texts with."""
    add_special: bool | None = None
    """The same, as llama-server's clients call it."""
    return_token_strs: bool | None = None
    """Whether the text of each token is told."""

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if (self.prompt is None) == (self.content is None):
            raise refusal("prompt", "give one text, as `prompt` or as `content`")
        return self

    @property
    def text(self) -> str:
        """The text, by either name."""
        return self.prompt if self.prompt is not None else self.content or ""

    @property
    def adds_specials(self) -> bool:
        """Whether the start of a text is wanted: vLLM means it unless told, llama-server not."""
        default = self.prompt is not None
        given = self.add_special_tokens if self.add_special is None else self.add_special
        return default if given is None else given


class TokenizeReply(Wire):
    """The token ids of a text, and the window they are to fit."""

    count: int
    """How many there are."""
    max_model_len: int
    """The model's window."""
    tokens: list[int]
    """Their ids."""
    token_strs: list[str] | None
    """Their texts, if they were asked for."""


class DetokenizeRequest(TokensRequest):
    """Token ids to read."""

    model_config = examples({"tokens": [5, 6, 7]})

    tokens: list[TokenId] = Field(max_length=2**19)
    """Token ids."""


class DetokenizeReply(Wire):
    """Their text, special tokens included, by both names."""

    prompt: str
    """Their text."""
    content: str
    """The same."""


class TokenizerInfo(Wire):
    """What an evaluation asks of a tokenizer before it uses one from afar."""

    tokenizer_class: str
    """What transformers calls it."""
    vocab_size: int
    """How many ids there are."""
    model_max_length: int
    """The model's window."""
    bos_token: str | None
    """What it begins texts with."""
    eos_token: str | None
    """What ends a text."""
    pad_token: str | None = None
    """Always null."""
    eos_token_ids: list[int]
    """All that end a text."""
    special_tokens: dict[str, int]
    """Ids by name."""
    chat_template: str | None = None
    """Always null: /apply-template writes conversations."""
    fim_template: str | None
    """How gaps are filled."""
