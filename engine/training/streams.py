"""From sources to token streams: the corpus packed once, in a folder, with what the card states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from engine.training.corpus import Corpus, Document, Source, collect, deduplicate, without_prompts
from engine.training.tokenizer import load_tokenizer, pack, train_tokenizer


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Sizes of both streams, and the characters that each package contributed."""

    train_files: int
    train_tokens: int
    held_out_files: int
    held_out_tokens: int
    characters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Streams:
    """A tokenizer and the corpus in its tokens, mapped from disk: ids [N], uint16."""

    tokenizer: PreTrainedTokenizerFast
    train: NDArray[np.uint16]
    held_out: NDArray[np.uint16]
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

    def train_texts(self) -> list[NDArray[np.uint16]]:
        """The files of the training stream, each with the `<|endoftext|>` that closes it."""
        ends = np.flatnonzero(self.train == self.tokenizer.eos_token_id) + 1
        return np.split(self.train, ends[:-1])


def prepare(
    folder: Path, sources: Sequence[Source], prompts: Sequence[str], vocab_size: int
) -> Streams:
    """Read, deduplicate, split and pack the sources, unless the folder holds the result.

    Files that share 12 words in a row with one of `prompts` stay out.
    """
    if not (folder / "facts.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        documents = list(without_prompts(deduplicate(collect(sources)), prompts))
        corpus = Corpus.split(documents)
        tokenizer = train_tokenizer((d.text for d in corpus.train), vocab_size)
        tokenizer.save_pretrained(folder / "tokenizer")
        train = _write(folder / "train.npy", tokenizer, corpus.train)
        held_out = _write(folder / "held_out.npy", tokenizer, corpus.held_out)
        facts = StreamFacts(*train, *held_out, characters=_count_characters(documents))
        (folder / "facts.json").write_text(json.dumps(asdict(facts), indent=2))
    return Streams.load(folder)


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
