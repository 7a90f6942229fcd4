"""A Katz back-off trigram, memory-mapped from one file and asked in microseconds.

    P(w | u v) = stored(u v w)              if the table holds the trigram
                 a(u v) * P(w | v)          otherwise, and so down to the unigram

Back-off after Katz, *Estimation of Probabilities from Sparse Data for the Language Model Component
of a Speech Recognizer* (1987), as the drafter of a draft (Spector & Ré, section 3.2). `katz_build`
counts and prunes, `katz_file` keeps what comes of it; here a finished table is asked. Knows token
ids and nothing of text, models or trees.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.drafting.katz_build import LEVEL_LOGPROBS, Array, Tokens, build_arrays
from engine.drafting.katz_file import FILE_NAME, file_of, read, write
from engine.errors import ModelLoadError

_CACHED_CONTEXTS = 1 << 16
_LOGPROBS: tuple[float, ...] = tuple(LEVEL_LOGPROBS.tolist())


class Continuations(NamedTuple):
    """Tokens and their log-probabilities, best first."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class _Row(NamedTuple):
    """What is stored for one context, best first, and the log of its back-off weight."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    backoff: float


_UNSEEN = _Row((), (), 0.0)


class _Rows:
    """The stored rows of one order; plain buffers, since numpy scalars cost a microsecond each."""

    def __init__(self, arrays: Mapping[str, Array], order: str) -> None:
        self._counts = arrays[f"{order}_counts"].data
        self._ends = np.cumsum(arrays[f"{order}_counts"], dtype=np.int64).data
        self._tokens = arrays[f"{order}_tokens"].data
        self._levels = arrays[f"{order}_levels"].data
        self._backoffs = arrays[f"{order}_backoffs"].data

    def __getitem__(self, index: int) -> _Row:
        end = self._ends[index]
        start = end - self._counts[index]
        levels = self._levels[start:end].tolist()
        logprobs = tuple([_LOGPROBS[level] for level in levels])
        return _Row(tuple(self._tokens[start:end].tolist()), logprobs, self._backoffs[index])


class KatzTable:
    """Log-probabilities of the next token after two tokens; see `katz_build` for the arrays.

    A context may be of any tokens: one that the table does not know was never seen. What it names
    are ids below `max_vocab`, if that is given, of a target that was padded less than the table.
    """

    def __init__(
        self, arrays: Mapping[str, Array], max_continuations: int, max_vocab: int | None = None
    ) -> None:
        self.vocab_size = len(arrays["unigram"])
        self._num_named = min(self.vocab_size, max_vocab or self.vocab_size)
        self.max_continuations = max_continuations
        self._arrays = dict(arrays)
        self._unigram = arrays["unigram"].data
        self._bigrams = _Rows(arrays, "bigram")
        self._trigrams = _Rows(arrays, "trigram")
        self._starts = arrays["trigram_starts"].data
        self._befores = arrays["trigram_befores"].data
        # A row of order n may hide that many of the order below, so each list is that much longer.
        self._frequent = _most_frequent(arrays["unigram"][: self._num_named], 4 * max_continuations)
        self._after_one = lru_cache(maxsize=_CACHED_CONTEXTS)(self._rank_after_one)
        self._after_two = lru_cache(maxsize=_CACHED_CONTEXTS)(self._rank_after_two)

    @classmethod
    def build(
        cls,
        tokens: Iterable[Tokens],
        vocab_size: int,
        *,
        max_continuations: int = 8,
        min_count: int = 2,
        max_bytes: int | None = None,
    ) -> KatzTable:
        """Count texts one at a time; an n-gram is kept when it stood `min_count` times or more.

        A trigram must also be among the `max_continuations` best of its context. If the arrays
        would exceed `max_bytes`, the trigrams that tell least beyond their bigrams are dropped.
        """
        if not 1 <= max_continuations <= 127:
            raise ValueError(f"max_continuations must be 1 to 127, not {max_continuations}")
        arrays = build_arrays(
            tokens,
            vocab_size,
            max_continuations=max_continuations,
            min_count=min_count,
            max_bytes=max_bytes,
        )
        return cls(arrays, max_continuations)

    @classmethod
    def load(cls, path: str | Path, max_vocab: int | None = None) -> KatzTable:
        """Map a table into memory from its file, or from a folder that holds `katz.safetensors`.

        Raises ModelLoadError when there is none or when the file is not one.
        """
        file = file_of(path)
        try:
            arrays, metadata = read(file)
            return cls(arrays, int(metadata["max_continuations"]), max_vocab)
        except Exception as error:  # whatever a foreign file may cause
            raise ModelLoadError(
                f"cannot read an n-gram table from {file}: {error}. Name a folder that holds "
                f"{FILE_NAME}, such as embedded/draft2, or build one: stagetree ngram build."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the table to a file, or as `katz.safetensors` into a folder that exists."""
        write(self._arrays, file_of(path), max_continuations=str(self.max_continuations))

    @property
    def num_bytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    @property
    def num_trigrams(self) -> int:
        """How many trigrams are stored."""
        return len(self._arrays["trigram_tokens"])

    def continuations(self, before: int, last: int) -> tuple[Sequence[int], Sequence[float]]:
        """The likeliest next tokens after `before, last`, best first, with log-probabilities.

        There are `max_continuations` of them, or the whole vocabulary if that is smaller.
        `before` is -1 in a context of one token.
        """
        return self._after_two(before, last)

    def logprob(self, before: int, last: int, token: int) -> float:
        """The Katz log-probability of any token in the vocabulary after `before, last`."""
        total = 0.0
        for row in (self._seen_after_two(before, last), self._seen_after_one(last)):
            if token in row.tokens:
                return total + row.logprobs[row.tokens.index(token)]
            total += row.backoff
        return total + float(self._unigram[token])

    def _seen_after_one(self, last: int) -> _Row:
        """The stored bigrams of a context."""
        return self._bigrams[last] if last < self.vocab_size else _UNSEEN

    def _seen_after_two(self, before: int, last: int) -> _Row:
        """The stored trigrams of a context; rows lie sorted by `last`, then by `before`."""
        if last >= self.vocab_size:
            return _UNSEEN
        start, end = self._starts[last], self._starts[last + 1]
        index = bisect_left(self._befores, before, start, end)
        is_stored = index < end and self._befores[index] == before
        return self._trigrams[index] if is_stored else _UNSEEN

    def _rank_after_two(self, before: int, last: int) -> Continuations:
        row = self._seen_after_two(before, last)
        return _best(row, self._after_one(last), self.max_continuations, self._num_named)

    def _rank_after_one(self, last: int) -> Continuations:
        row = self._seen_after_one(last)
        return _best(row, self._frequent, 2 * self.max_continuations, self._num_named)


def _best(row: _Row, lower: Continuations, limit: int, num_named: int) -> Continuations:
    """The best of a row and of the order below it, weighed down by the row's back-off."""
    if not row.tokens:
        return Continuations(lower.tokens[:limit], lower.logprobs[:limit])
    reach = limit + len(row.tokens)
    backed_off = [row.backoff + logprob for logprob in lower.logprobs[:reach]]
    scores = dict(zip(lower.tokens, backed_off, strict=False))
    scores.update(zip(row.tokens, row.logprobs, strict=True))
    named = [token for token in scores if token < num_named]
    tokens = sorted(named, key=scores.__getitem__, reverse=True)[:limit]
    return Continuations(tuple(tokens), tuple(map(scores.__getitem__, tokens)))


def _most_frequent(unigram: Array, count: int) -> Continuations:
    order = np.argsort(-unigram, kind="stable")[:count]
    return Continuations(tuple(order.tolist()), tuple(unigram[order].tolist()))
