"""Documents: Python sources under permissive licences; deduplicated, and a part held out.

Knows files and licences; knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

STANDARD_LIBRARY = "standard library"

_SKIPPED_FOLDERS = {
    *("site-packages", "__pycache__", "test", "tests", "testing", "benchmarks", "idlelib"),
    *("lib2to3", "encodings", "pydoc_data", "turtledemo", "_vendor", "_vendored", "vendor"),
}
_MIN_BYTES, _MAX_BYTES = 400, 200_000
_MAX_LINE = 300
_MAX_DIGITS = 0.15
_LONG_LINE = 20
_MAX_SEEN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Source:
    """An installed package whose licence permits training on it, and the share of files taken."""

    package: str
    licence: str
    share: float = 1.0


SOURCES = (
    Source(STANDARD_LIBRARY, "PSF-2.0"),
    Source("networkx", "BSD-3-Clause"),
    Source("sympy", "BSD-3-Clause", 0.4),
    Source("mpmath", "BSD-3-Clause"),
    Source("numpy", "BSD-3-Clause"),
    Source("torch", "BSD-3-Clause", 0.1),
    Source("transformers", "Apache-2.0", 0.04),
    Source("huggingface_hub", "Apache-2.0", 0.3),
    Source("fsspec", "BSD-3-Clause"),
    Source("fastapi", "MIT"),
    Source("starlette", "BSD-3-Clause"),
    Source("uvicorn", "BSD-3-Clause"),
    Source("pydantic", "MIT", 0.5),
    Source("anyio", "MIT"),
    Source("click", "BSD-3-Clause"),
    Source("typer", "MIT"),
    Source("rich", "MIT"),
    Source("jinja2", "BSD-3-Clause"),
    Source("filelock", "MIT"),
    Source("packaging", "Apache-2.0 OR BSD-2-Clause"),
    Source("prometheus_client", "Apache-2.0"),
    Source("markdown_it", "MIT"),
    Source("pluggy", "MIT"),
    Source("_pytest", "MIT", 0.5),
    Source("setuptools", "MIT", 0.3),
    Source("yaml", "MIT"),
    Source("safetensors", "Apache-2.0"),
)
"""Every source the family is trained on. Copyleft packages, MPL among them, stay out."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file: the package it came from, its path inside it, and its text."""

    package: str
    path: str
    text: str

    @property
    def place(self) -> float:
        """A fixed point in [0, 1) that depends on the text alone: it shuffles and it splits."""
        digest = hashlib.blake2b(self.text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and documents held out, no file in both, each in shuffled order."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @classmethod
    def split(cls, documents: Iterable[Document], held_out_share: float = 0.02) -> Corpus:
        """Hold out a share of the files, chosen by the hash of their text; of several, one or more.

        Raises ConfigError if there are too few to train on some and hold out others.
        """
        ordered = sorted(documents, key=lambda document: document.place)
        if len(ordered) < 2:
            raise ConfigError(
                f"{len(ordered)} different texts are too few to train on some and hold out others: "
                "give more files, or split them into smaller ones."
            )
        num_held_out = max(1, sum(d.place < held_out_share for d in ordered))
        return cls(tuple(ordered[num_held_out:]), tuple(ordered[:num_held_out]))


def collect(sources: Sequence[Source] = SOURCES) -> Iterator[Document]:
    """Read the sources that are installed; files of data, tests and vendored parts stay out."""
    for source in sources:
        root = _root(source.package)
        for path in sorted(root.rglob("*.py")):
            place = path.relative_to(root)
            if _SKIPPED_FOLDERS.isdisjoint(place.parts) and (text := _read(path)) is not None:
                document = Document(source.package, place.as_posix(), text)
                if document.place < source.share:
                    yield document


def deduplicate(documents: Iterable[Document]) -> Iterator[Document]:
    """Drop a file when half of its long lines or more stood in files kept before it.

    A file of short lines alone counts as one line.
    """
    seen: set[int] = set()
    for document in documents:
        lines = {hash(line) for line in _long_lines(document.text) or [document.text.strip()]}
        if not document.text.strip() or len(lines & seen) >= _MAX_SEEN_SHARE * len(lines):
            continue
        seen |= lines
        yield document


def _root(package: str) -> Path:
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    return Path(sysconfig.get_path("purelib")) / package


def _read(path: Path) -> str | None:
    """The text of a file that people wrote to be read, or None."""
    if not _MIN_BYTES <= path.stat().st_size <= _MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    num_digits = sum(map(text.count, "0123456789"))
    is_data = num_digits > _MAX_DIGITS * len(text) or max(map(len, text.split("\n"))) > _MAX_LINE
    return None if is_data else text


def _long_lines(text: str) -> list[str]:
    return [line for each in text.split("\n") if len(line := each.strip()) >= _LONG_LINE]
