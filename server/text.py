"""Text and token ids: the tokenizer, incremental detokenising, and stop strings.

Nothing here knows of requests or of HTTP. `AutoTokenizer` would import torch; what it says is read
by the engine process and asked here without it.
"""

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Self

import tokenizers

from engine import EngineError, TokenizerState
from server.errors import LoadFailedError

REPLACEMENT = "\ufffd"
# Decoders look at one neighbour or two; the first token of a text is read unlike any other.
_CONTEXT_TOKENS = 8
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# No text has half a surrogate pair, so that each can stand for a special token among text.
_FIRST_MARK = 0xD800
_MARKS = re.compile("[\ud800-\udfff]+")


class Tokenizer:
    """A model's tokenizer, asked without torch; `specials` are its special tokens by id.

    `eos_token_ids` end a text to it, whatever the model's own configuration says.
    """

    def __init__(self, inner: tokenizers.Tokenizer, eos_token_ids: tuple[int, ...] = ()) -> None:
        self.inner = inner
        self.eos_token_ids = eos_token_ids
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
        return cls(inner, state.eos_token_ids)

    @classmethod
    def load(cls, model: str) -> Self:
        """The tokenizer of `embedded/...`, a folder or a Hugging Face id; this imports torch."""
        from engine import read_tokenizer

        try:
            return cls.of(read_tokenizer(model))
        except EngineError as error:
            raise LoadFailedError(str(error)) from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        return self.inner.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.inner.decode(token_ids, skip_special_tokens=True)

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


class StopMatcher:
    """Finds the stop string that completes first in text that arrives in pieces; mutable.

    Only the longest ending that could still begin a stop string is held back. Special tokens leave
    no text; those that a stop string names are told by their `marks`, and end the text like their
    names.
    """

    def __init__(
        self, stops: tuple[str, ...], specials: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        named = [item for item in specials.items() if any(item[1] in stop for stop in stops)]
        named.sort(key=lambda item: -len(item[1]))  # a name may begin another
        self.marks = {at: chr(_FIRST_MARK + i) for i, (at, _) in enumerate(named)}
        self._stops = {stop: stop for stop in stops}
        for stop in stops:
            marked = stop
            for at, name in named:
                marked = marked.replace(name, self.marks[at])
            self._stops[marked] = stop
        self._plain = [pattern for pattern in self._stops if pattern == unmarked(pattern)]
        self._marked = [pattern for pattern in self._stops if pattern != unmarked(pattern)]
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is now certain; sets `matched`, which ends the text before the match."""
        text = self._held + piece
        found = [*_places(self._plain, unmarked(text)), *_places(self._marked, text)]
        if found:
            _, at, pattern = min(found)
            self.matched = self._stops[pattern]
            self._held = ""
            return unmarked(text)[:at]
        keep = len(text) - self._num_held(text)
        self._held = text[keep:]
        return unmarked(text[:keep])

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return unmarked(held)

    def _num_held(self, text: str) -> int:
        """How much of the end of a text may begin a stop string, the marks within it too."""
        held = num_shown = _num_begun(self._plain, unmarked(text))
        while len(unmarked(text[len(text) - held :])) < num_shown:
            held += 1
        return max(held, _num_begun(self._marked, text))


def _places(patterns: Sequence[str], text: str) -> list[tuple[int, int, str]]:
    """Where each of them that is in a text first ends and begins, marks not counted."""
    found = [(pattern, at) for pattern in patterns if (at := text.find(pattern)) >= 0]
    return [
        (len(unmarked(text[: at + len(pattern)])), len(unmarked(text[:at])), pattern)
        for pattern, at in found
    ]


def _num_begun(patterns: Sequence[str], text: str) -> int:
    """The longest ending of a text with which one of them begins."""
    longest = min(len(text), max(map(len, patterns), default=1) - 1)
    for length in range(longest, 0, -1):
        ending = text[-length:]
        if any(pattern.startswith(ending) for pattern in patterns):
            return length
    return 0


def unmarked(text: str) -> str:
    """A text without the marks of special tokens."""
    return text if text.isascii() else _MARKS.sub("", text)


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
