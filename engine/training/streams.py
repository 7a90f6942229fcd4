"""From texts to token streams: packed once, in a folder, with what a model card states of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from engine.errors import ConfigError
from engine.training.corpus import Corpus, Document, deduplicate
from engine.training.tokenizer import load_tokenizer, pack
from engine.training.trainer import Stream


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Sizes of both streams, and the characters that each package contributed."""

    train_files: int
    train_tokens: int
    held_out_files: int
    held_out_tokens: int
    characters: dict[str, int]
    origin: str = ""


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

    def train_texts(self) -> list[Stream]:
        """The texts of the training stream, each with the id that closes it."""
        ends = np.flatnonzero(self.train == self.tokenizer.eos_token_id) + 1
        return np.split(self.train, ends[:-1])


def prepare(
    folder: Path,
    documents: Iterable[Document],
    make_tokenizer: Callable[[Iterable[str]], PreTrainedTokenizerFast],
    origin: str,
) -> Streams:
    """Deduplicate, split and pack documents, unless the folder holds the result already.

    `origin` says where texts and tokenizer came from. Raises ConfigError if the folder holds
    streams of another origin, or if there is too little text to hold some out.
    """
    if not (folder / "facts.json").exists():
        kept = list(deduplicate(documents))
        corpus = Corpus.split(kept)
        if not corpus.train or not corpus.held_out:
            raise ConfigError(
                f"{len(kept)} different texts are too few to train on some and hold out others: "
                "give more files, or split them into smaller ones."
            )
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = make_tokenizer(document.text for document in corpus.train)
        tokenizer.save_pretrained(folder / "tokenizer")
        train = _write(folder / "train.npy", tokenizer, corpus.train)
        held_out = _write(folder / "held_out.npy", tokenizer, corpus.held_out)
        facts = StreamFacts(*train, *held_out, _count_characters(kept), origin)
        (folder / "facts.json").write_text(json.dumps(asdict(facts), indent=2))
    streams = Streams.load(folder)
    if streams.facts.origin != origin:
        raise ConfigError(
            f"{folder} holds texts of another origin ({streams.facts.origin}): choose another work "
            "folder, or delete this one."
        )
    return streams


def _write(
    file: Path, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]
) -> tuple[int, int]:
    """Pack documents into a file; the numbers of files and tokens."""
    stream = pack(tokenizer, [document.text for document in documents])
    np.save(file, stream)
    return len(documents), len(stream)


def _count_characters(documents: Sequence[Document]) -> dict[str, int]:
    characters: dict[str, int] = {}
    for document in documents:
        characters[document.package] = characters.get(document.package, 0) + len(document.text)
    return characters
