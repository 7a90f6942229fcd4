"""A model's tokenizer, and what one token is as text or as bytes."""

import json
import re
from collections.abc import Collection
from functools import cached_property
from typing import Self

import tokenizers

from engine import EngineError, TokenizerState
from server.errors import LoadFailedError
from server.text.template import NO_TEMPLATES, ChatTemplates

REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A model's tokenizer, asked without torch; `specials` are its special tokens by id.

    `eos_token_ids` end a text to it, whatever the model's own configuration says. `templates` write
    conversations for it.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        eos_token_ids: tuple[int, ...] = (),
        templates: ChatTemplates = NO_TEMPLATES,
    ) -> None:
        self.inner = inner
        self.eos_token_ids = eos_token_ids
        self.templates = templates
        added = inner.get_added_tokens_decoder()
        self.specials = {at: token.content for at, token in added.items() if token.special}
        kinds = _decoder_kinds(inner)
        self._is_byte_level = kinds == {"ByteLevel"}
        self._falls_back_to_bytes = "ByteFallback" in kinds

    @classmethod
    def of(cls, state: TokenizerState) -> Self:
        """The tokenizer that an engine process has read."""
        inner = tokenizers.Tokenizer.from_str(state.json)
        inner.encode_special_tokens = state.splits_special_tokens
        templates = ChatTemplates(state.chat_templates, state.special_tokens)
        return cls(inner, state.eos_token_ids, templates)

    @classmethod
    def load(cls, model: str) -> Self:
        """The tokenizer of `embedded/...`, a folder or a Hugging Face id; this imports torch."""
        from engine import read_tokenizer

        try:
            return cls.of(read_tokenizer(model))
        except EngineError as error:
            raise LoadFailedError(str(error)) from error

    def named(self, names: Collection[str]) -> dict[int, str]:
        """The special tokens that have these names, by id."""
        return {at: name for at, name in self.specials.items() if name in names}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        # Of one text too, since it lets other threads run meanwhile.
        [found] = self.inner.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = found.ids
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.inner.decode(token_ids, skip_special_tokens=True)

    def decode_all(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens by their names."""
        return self.inner.decode(token_ids, skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes of text that a token stands for; None if only the decoder can tell."""
        piece = self.inner.id_to_token(token_id) or ""
        if self._is_byte_level:
            codes = [_BYTE_LEVEL.get(character, -1) for character in piece]
            return piece.encode() if -1 in codes else bytes(codes)
        if self._falls_back_to_bytes and (byte := _BYTE_TOKEN.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        return None

    def token_text(self, token_id: int) -> str:
        """One token as log-probabilities name it: its text, or `bytes:` and hex for a fragment."""
        if (piece := self.inner.id_to_token(token_id)) is None:
            return f"<{token_id}>"
        text = self.inner.decode([token_id], skip_special_tokens=False)
        if REPLACEMENT in text:
            return _fragment(piece)
        return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text

    @cached_property
    def longest(self) -> int:
        """Characters that one token may stand for, at the most."""
        return max(map(len, self.inner.get_vocab()))

    @cached_property
    def texts(self) -> list[str]:
        """The text of every token, by id."""
        return [self.token_text(token_id) for token_id in range(self.inner.get_vocab_size())]


def _decoder_kinds(inner: tokenizers.Tokenizer) -> set[str]:
    """The parts of its decoder by name; none of one that is written in Python."""
    try:
        state = json.loads(inner.decoder.__getstate__())
    except Exception:
        return set()
    return {part["type"] for part in state.get("decoders", [state])} - {"Fuse"}


def _fragment(piece: str) -> str:
    if piece.startswith("<0x"):
        return f"bytes:\\x{piece[3:5].lower()}"
    codes = [_BYTE_LEVEL.get(character) for character in piece]
    return "bytes:" + "".join(f"\\x{code:02x}" for code in codes if code is not None)


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others count up from 256."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [code for code in range(256) if code not in plain]
    return {chr(code): code for code in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_LEVEL = _byte_level()
