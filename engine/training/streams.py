"""From texts to token streams: packed once, in a folder, with what a model card states of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from engine.errors import ConfigError
from engine.tokenizer import load_tokenizer
from engine.training.corpus import Corpus, Document, deduplicate
from engine.training.texts import PromptFilter, Texts
from engine.training.tokenizer import pack
from engine.training.tokens import Stream

_PIECE = 1 << 20
"""Tokens that are counted at once: a text without an end, or a longer one, comes in pieces."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Sizes of both streams, the characters of each package, the files left out for a prompt."""

    train_files: int
    train_tokens: int
    held_out_files: int
    held_out_tokens: int
    characters: dict[str, int]
    origin: str = ""
    excluded_files: int = 0


@dataclass(frozen=True, slots=True)
class Streams:
    """A tokenizer and the corpus in its tokens, mapped from disk."""

    tokenizer: PreTrainedTokenizerFast
    train: Stream
    held_out: Stream
    facts: StreamFacts

    @classmethod
    def load(cls, folder: Path) -> Streams:
        """Map streams that `prepare` has written."""
        return cls(
            load_tokenizer(folder / "tokenizer"),
            np.load(folder / "train.npy", mmap_mode="r"),
            np.load(folder / "held_out.npy", mmap_mode="r"),
            StreamFacts(**json.loads((folder / "facts.json").read_text())),
        )

    def train_texts(self) -> Iterator[Stream]:
        """The texts of the training stream, each with the id that closes it."""
        end = self.tokenizer.eos_token_id
        for start in range(0, len(self.train), _PIECE):
            piece = self.train[start : start + _PIECE]
            texts = [piece] if end is None else np.split(piece, np.flatnonzero(piece == end) + 1)
            yield from (text for text in texts if len(text))


def prepare(
    folder: Path,
    texts: Texts,
    make_tokenizer: Callable[[Iterable[str]], PreTrainedTokenizerFast],
    tokenizer_name: str,
) -> Streams:
    """Deduplicate, split and pack texts, unless the folder holds the result already.

    Raises ConfigError if the folder holds streams of other texts or another tokenizer, or if there
    is too little text to hold some out.
    """
    origin = f"{texts.origin}; tokenizer: {tokenizer_name}"
    if not (folder / "facts.json").exists():
        _write_all(folder, texts, make_tokenizer, origin)
    streams = Streams.load(folder)
    # What has no origin was packed before they were written down.
    if streams.facts.origin not in ("", origin):
        raise ConfigError(
            f"{folder} holds texts of another origin ({streams.facts.origin}): choose another work "
            "folder, or delete this one."
        )
    return streams


def _write_all(
    folder: Path,
    texts: Texts,
    make_tokenizer: Callable[[Iterable[str]], PreTrainedTokenizerFast],
    origin: str,
) -> None:
    prompts = PromptFilter(texts.prompts)
    kept = list(deduplicate(prompts.keep(texts.read())))
    corpus = Corpus.split(kept)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(document.text for document in corpus.train)
    tokenizer.save_pretrained(folder / "tokenizer")
    train = _write(folder / "train.npy", tokenizer, corpus.train)
    held_out = _write(folder / "held_out.npy", tokenizer, corpus.held_out)
    characters = _count_characters(kept)
    facts = StreamFacts(*train, *held_out, characters, origin, prompts.num_dropped)
    # Last, since its presence says that the rest is whole.
    (folder / "facts.json").write_text(json.dumps(asdict(facts), indent=2))


def _write(
    file: Path, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
) -> tuple[int, int]:
    """Pack documents into a file; the numbers of files and tokens."""
    stream = pack(tokenizer, (document.text for document in documents))
    np.save(file, stream)
    return len(documents), len(stream)


def _count_characters(documents: Sequence[Document]) -> dict[str, int]:
    characters: dict[str, int] = {}
    for document in documents:
        characters[document.package] = characters.get(document.package, 0) + len(document.text)
    return characters
