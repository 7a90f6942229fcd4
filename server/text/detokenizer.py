"""From the tokens of a reply to its text, piece by piece."""

import codecs
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType

from server.text.tokenizer import REPLACEMENT, Tokenizer

# Decoders look at one neighbour or two; the first token of a text is read unlike any other.
_CONTEXT_TOKENS = 8


class Detokenizer:
    """Turns the tokens of one reply into text, piece by piece; mutable.

    The pieces, `flush` included, join to the text that the reply adds to its prompt. A character
    that the prompt's last tokens began and the reply completes belongs to the reply. Special
    tokens leave no text but their mark, for those that have one in `marks`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: tuple[int, ...] = (),
        marks: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._context: list[int] = []
        self._unread: list[int] = []
        self._is_prompts = False
        told = (token_id for token_id in reversed(prompt) if token_id not in tokenizer.specials)
        for token_id in reversed(list(islice(told, _CONTEXT_TOKENS))):
            self.push(token_id)
        self._tell()
        self._is_prompts = bool(self._utf8.getstate()[0])

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        if token_id in self._marks:
            return self.flush() + self._marks[token_id]
        if token_id in self._tokenizer.specials:
            return ""
        encoded = self._tokenizer.token_bytes(token_id)
        if encoded is None:
            return self._characters(b"", is_over=True) + self._read(token_id)
        text = self._tell()
        self._context = [token_id]
        return text + self._characters(encoded)

    def flush(self) -> str:
        """Whatever the last tokens left unfinished; a truncated character reads as U+FFFD."""
        return self._characters(b"", is_over=True) + self._tell()

    def _characters(self, encoded: bytes, is_over: bool = False) -> str:
        """The characters that these bytes complete, or end; U+FFFD for bytes that are none."""
        text = self._utf8.decode(encoded, is_over)
        if self._is_prompts and (text or is_over):
            self._is_prompts = False
            return text.removeprefix(REPLACEMENT)
        return text

    def _read(self, token_id: int) -> str:
        """What the decoder adds for a token; empty while its text ends inside a character."""
        self._unread.append(token_id)
        whole = self._tokenizer.decode([*self._context, *self._unread])
        return "" if whole.endswith(REPLACEMENT) else self._tell()

    def _tell(self) -> str:
        """What the decoder adds for tokens not yet read to the text of those before them."""
        if not (unread := self._unread):
            return ""
        known = self._tokenizer.decode(self._context)
        self._context, self._unread = [*self._context, *unread], []
        whole = self._tokenizer.decode(self._context)
        self._context = self._context[-_CONTEXT_TOKENS:]
        while known.endswith(REPLACEMENT) and not whole.startswith(known):
            known = known[:-1]  # a character that the prompt began is finished here
        if whole.startswith(known):
            return whole[len(known) :]
        # Some decoders rewrite earlier text, which has been told.
        return self._tokenizer.decode(unread)
