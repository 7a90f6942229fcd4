"""Text and token ids: the tokenizer, incremental detokenising, and stop strings.

Nothing here knows of requests or of HTTP. `AutoTokenizer` would import torch; this does not.
"""

from pathlib import Path
from typing import Self

import tokenizers
from tokenizers.decoders import DecodeStream

import engine
from server.errors import LoadFailedError

REPLACEMENT = "\ufffd"
_PRIMING_TOKENS = 8
_LONGEST_CHARACTER = 4


class Tokenizer:
    """A `tokenizer.json`, read without torch."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self.inner = inner

    @classmethod
    def load(cls, model: str) -> Self:
        """Find a model's tokenizer: in `embedded/...`, a folder, or on the Hugging Face hub."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(_tokenizer_file(model))))
        except Exception as error:
            raise LoadFailedError(
                f"No usable tokenizer.json for {model!r}: {error}. Name a folder or a Hugging Face "
                "id that holds one, or save one with tokenizer.save_pretrained(folder)."
            ) from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        return self.inner.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.inner.decode(token_ids, skip_special_tokens=True)

    def token_text(self, token_id: int) -> str:
        """One token as log-probabilities name it: its text, or `bytes:` and hex for a fragment."""
        piece = self.inner.id_to_token(token_id) or f"<{token_id}>"
        text = self.inner.decode([token_id], skip_special_tokens=False)
        if REPLACEMENT in text:
            return _fragment(piece)
        return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


class Detokenizer:
    """Turns the tokens of one reply into text, piece by piece; mutable.

    The pieces, `flush` included, join to the text that the reply adds to its prompt. A character
    that the prompt's last tokens began and the reply completes belongs to the reply.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: tuple[int, ...] = ()) -> None:
        self._tokenizer = tokenizer
        complete, dangling = _split_prompt(tokenizer, list(prompt[-_PRIMING_TOKENS:]))
        self._context: list[int] = []
        self._pending: list[int] = []
        self._stream = DecodeStream()
        self._restart(complete)
        for token_id in dangling:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._pending.append(token_id)
        try:
            piece = self._stream.step(self._tokenizer.inner, token_id)
        except Exception as error:
            # Some decoders rewrite earlier text; tokenizers then refuses to go on with the stream.
            if not str(error).startswith("Invalid prefix encountered"):
                raise
            piece = self._remainder()
            self._restart(self._pending)
            return piece
        if piece:
            self._context, self._pending = self._pending, []
        return piece or ""

    def flush(self) -> str:
        """Whatever the last tokens left unfinished; a truncated character reads as U+FFFD."""
        piece = self._remainder()
        self._restart([])
        return piece

    def _remainder(self) -> str:
        known = self._tokenizer.decode(self._context)
        whole = self._tokenizer.decode(self._context + self._pending)
        if whole.startswith(known):
            return whole[len(known) :]
        return self._tokenizer.decode(self._pending)

    def _restart(self, context: list[int]) -> None:
        self._context = context
        self._pending = []
        self._stream = DecodeStream(ids=context, skip_special_tokens=True)


class StopMatcher:
    """Finds the stop string that completes first in text that arrives in pieces; mutable.

    Only the longest ending that could still begin a stop string is held back.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is now certain; sets `matched`, which ends the text before the match."""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        keep = len(text) - self._num_held(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            ending = text[-length:]
            if any(stop.startswith(ending) for stop in self._stops):
                return length
        return 0


def _tokenizer_file(model: str) -> Path:
    if model.startswith("embedded/"):
        return Path(engine.__file__).parent / model / "tokenizer.json"
    if Path(model).is_dir():
        return Path(model) / "tokenizer.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(model, "tokenizer.json"))


def _split_prompt(tokenizer: Tokenizer, tail: list[int]) -> tuple[list[int], list[int]]:
    """Part the tokens that end in a whole character from those that begin an unfinished one.

    A stream primed with an unfinished character would repeat the prompt in its first piece.
    """
    for end in range(len(tail), max(-1, len(tail) - _LONGEST_CHARACTER), -1):
        if not tokenizer.decode(tail[:end]).endswith(REPLACEMENT):
            return tail[:end], tail[end:]
    return [], []


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
