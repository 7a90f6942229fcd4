"""What to train on: installed sources or texts of one's own, without the benchmark's prompts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.training.corpus import SOURCES, Document, Source, collect

_PROMPT_RUN = 12
_PIECE = 100_000
"""Characters of a document; a longer file is several, so that some of it can be held out."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Files and folders of one's own, or without `paths` the installed sources; what to omit."""

    paths: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()
    sources: tuple[Source, ...] = SOURCES

    def read(self) -> Iterator[Document]:
        """Every document, those that quote a prompt included."""
        return read_texts(self.paths) if self.paths else collect(self.sources)

    @property
    def origin(self) -> str:
        """Where they come from, in a line that differs if anything here does."""
        where = ", ".join(str(path.resolve()) for path in self.paths) or "installed packages"
        if not self.prompts:
            return where
        digest = hashlib.blake2b("\0".join(self.prompts).encode(), digest_size=4).hexdigest()
        return f"{where} without {len(self.prompts)} prompts {digest}"


def read_texts(paths: Sequence[Path]) -> Iterator[Document]:
    """Texts of one's own: files, folders of files, and JSON lines with a `text` each.

    What is not UTF-8 is left out. Raises ConfigError if there is nothing at a path.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder to read texts from.")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            is_hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not is_hidden:
                yield from _documents_of(file)


def read_prompts(path: Path) -> list[str]:
    """The `prompt` field of every line of a JSONL file. Raises ConfigError if there is none."""
    try:
        with path.open(encoding="utf-8") as lines:
            return [str(json.loads(line)["prompt"]) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path}: {error!r}. It must hold one {{"prompt": "..."}} a line.'
        ) from error


class PromptFilter:
    """Drops the documents that quote a prompt: 12 words in a row, or the whole of a shorter one.

    Case, punctuation and layout do not count. `num_dropped` says how many were dropped so far.
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self.num_dropped = 0
        self._runs: dict[int, set[tuple[str, ...]]] = {}
        for prompt in prompts:
            words = _words(prompt)
            length = min(_PROMPT_RUN, len(words))
            if length:
                self._runs.setdefault(length, set()).update(_runs(words, length))

    def keep(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that quote no prompt."""
        for document in documents:
            if self.quotes(document.text):
                self.num_dropped += 1
            else:
                yield document

    def quotes(self, text: str) -> bool:
        """Whether a text holds a run of words from a prompt."""
        words = _words(text) if self._runs else []
        return any(
            not known.isdisjoint(_runs(words, length)) for length, known in self._runs.items()
        )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of so many words in order."""
    return zip(*(words[offset:] for offset in range(length)), strict=False)


def _documents_of(file: Path) -> Iterator[Document]:
    try:
        text = file.read_text(encoding="utf-8")
        texts = list(_pieces(text)) if file.suffix != ".jsonl" else _json_texts(text)
    except UnicodeDecodeError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'{file}: {error!r}. A line must be {{"text": "..."}}.') from error
    for number, each in enumerate(texts):
        yield Document(file.name, str(number), each)


def _json_texts(lines: str) -> list[str]:
    return [str(json.loads(line)["text"]) for line in lines.split("\n") if line.strip()]


def _pieces(text: str) -> Iterator[str]:
    """A text in documents of a bounded size, which end where a line does if one is that short."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
