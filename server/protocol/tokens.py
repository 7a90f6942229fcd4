"""`/tokenize`, `/detokenize` and `/tokenizer_info`: in vLLM's words, and in llama-server's."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from server.protocol.foreign import own_fields, refusal
from server.protocol.sampling import TokenId
from server.protocol.wire import Text, Wire

_LLAMA_SERVERS: Mapping[str, tuple[Any, ...]] = {"parse_special": (True,), "with_pieces": (False,)}
"""What its clients may say, if it changes nothing here."""


class TokensRequest(Wire):
    """What both bodies have in common: no name in them is ignored."""

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _know_every_name(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return own_fields(data, cls.model_fields, _LLAMA_SERVERS)


class TokenizeRequest(TokensRequest):
    """A text: vLLM's clients call it `prompt`, llama-server's `content`."""

    prompt: Text | None = None
    content: Text | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    return_token_strs: bool | None = None

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
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(TokensRequest):
    """Token ids to read."""

    tokens: list[TokenId] = Field(max_length=2**20)


class DetokenizeReply(Wire):
    """Their text, special tokens included, by both names."""

    prompt: str
    content: str


class TokenizerInfo(Wire):
    """What an evaluation asks of a tokenizer before it uses one from afar."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None = None
    eos_token_ids: list[int]
    special_tokens: dict[str, int]
    chat_template: str | None = None
    fim_template: str | None
