"""From texts to the arrays of a Katz table: count, discount, prune, weigh the back-off.

Counts are discounted absolutely (Ney, Essen & Kneser 1994), pruned to what tells most beyond the
order below (after Seymore & Rosenfeld 1996), and only then is the back-off weight of each context
computed, from the probabilities as they are stored: they sum to 1 whatever was pruned or rounded.

    unigram           log P(w)                                                     [V]
    <order>_counts    stored continuations of each context                         [contexts]
    <order>_tokens    the continuations of all contexts, each row best first       [entries]
    <order>_levels    their log-probabilities, as indices into LEVEL_LOGPROBS      [entries]
    <order>_backoffs  log of the weight that the order below receives              [contexts]
    trigram_starts    the first trigram context that ends in each token            [V + 1]
    trigram_befores   the token before it, ascending within one last token         [contexts]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tokens = Sequence[int] | NDArray[np.integer[Any]]

LEVEL_LOGPROBS = -16.0 * (np.arange(256) / 255.0) ** 2
"""What a stored byte means, in nats: fine steps near certainty, coarse ones far from it."""

_BUFFERED_KEYS = 1 << 22
_MAX_KEYS = 1 << 25
"""Distinct n-grams of one order kept while counting: half a gigabyte, three times that to merge."""

_UNIGRAM_PRIOR = 0.5


@dataclass(frozen=True, slots=True)
class NgramCounts:
    """How often each n-gram stood, by ascending `key` = context * V + token.

    `num_dropped` were forgotten for want of room, most of them seen once.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    num_dropped: int = 0

    def merged(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> NgramCounts:
        """These counts and more, whose keys may repeat and come in any order."""
        unique, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        totals = np.zeros(len(unique), np.int64)
        np.add.at(totals, place, np.concatenate([self.counts, counts]))
        return NgramCounts(unique, totals, self.num_dropped)

    def within(self, max_keys: int) -> NgramCounts:
        """At most so many keys: the rarest go first, as in lossy counting (Manku & Motwani 2002).

        What comes back later is counted anew; what stays rare was never worth a place in a table.
        """
        if len(self.keys) <= max_keys:
            return self
        # Half of the room is made free, or the next batch would fill it again.
        place = len(self.counts) - max_keys // 2
        is_kept = self.counts > np.partition(self.counts, place)[place]
        num_dropped = self.num_dropped + int(np.sum(~is_kept))
        return NgramCounts(self.keys[is_kept], self.counts[is_kept], num_dropped)

    def discount(self) -> float:
        """The absolute discount that the counts of counts suggest, n1 / (n1 + 2 n2)."""
        num_once = np.sum(self.counts == 1) + self.num_dropped
        num_twice = np.sum(self.counts == 2)
        if not num_once or not num_twice:
            return 0.5
        return float(num_once / (num_once + 2 * num_twice))


class _Counter:
    """Counts keys in batches, in bounded memory however long the text is."""

    def __init__(self) -> None:
        empty = np.empty(0, np.int64)
        self._total = NgramCounts(empty, empty)
        self._buffer: list[NDArray[np.int64]] = []
        self._num_buffered = 0

    def add(self, keys: NDArray[np.int64]) -> None:
        self._buffer.append(keys)
        self._num_buffered += len(keys)
        if self._num_buffered >= _BUFFERED_KEYS:
            self._flush()

    def result(self) -> NgramCounts:
        self._flush()
        return self._total

    def _flush(self) -> None:
        if self._buffer:
            keys, counts = np.unique(np.concatenate(self._buffer), return_counts=True)
            self._total = self._total.merged(keys, counts).within(_MAX_KEYS)
        self._buffer, self._num_buffered = [], 0


@dataclass(frozen=True, slots=True)
class _Entries:
    """Stored n-grams of one order, sorted by context, best first: parallel arrays [entries]."""

    contexts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    levels: NDArray[np.uint8]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        return np.exp(LEVEL_LOGPROBS[self.levels])


def build_arrays(
    texts: Iterable[Tokens],
    vocab_size: int,
    *,
    max_continuations: int,
    min_count: int,
    max_bytes: int | None,
) -> dict[str, Array]:
    """Build every array of a table; n-grams do not reach from one text into the next.

    Raises ValueError for a token outside the vocabulary.
    """
    unigrams, bigram_counts, trigram_counts = count_ngrams(texts, vocab_size)
    unigram = _smoothed(unigrams)
    # At least one token is always left to the order below, which then has mass to hand out.
    width = min(max_continuations, vocab_size - 1)
    bigrams = _store(bigram_counts, vocab_size, min(2 * width, vocab_size - 1), min_count)
    bigram_backoffs = _backoffs(bigrams, np.exp(unigram)[bigrams.tokens], vocab_size)
    arrays: dict[str, Array] = {"unigram": unigram}
    arrays |= _rows("bigram", bigrams, bigram_backoffs, vocab_size)
    room = None if max_bytes is None else max_bytes - sum(a.nbytes for a in arrays.values())
    below = _Below(unigram, bigrams, bigram_backoffs)
    return arrays | _trigram_arrays(trigram_counts, below, width, min_count, room)


def count_ngrams(
    texts: Iterable[Tokens], vocab_size: int
) -> tuple[NDArray[np.int64], NgramCounts, NgramCounts]:
    """Counts of unigrams [V], bigrams and trigrams in a stream of texts."""
    unigrams, bigrams, trigrams = np.zeros(vocab_size, np.int64), _Counter(), _Counter()
    for text in texts:
        ids = np.asarray(text, dtype=np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"a token lies outside the vocabulary of {vocab_size}")
        unigrams += np.bincount(ids, minlength=vocab_size)
        pairs = ids[:-1] * vocab_size + ids[1:]
        bigrams.add(pairs)
        trigrams.add(pairs[:-1] * vocab_size + ids[2:])
    return unigrams, bigrams.result(), trigrams.result()


@dataclass(frozen=True, slots=True)
class _Below:
    """The bigram as it is stored, to ask for P(w | v) of many pairs at once."""

    unigram: NDArray[np.float32]
    bigrams: _Entries
    backoffs: NDArray[np.float32]

    def probabilities(
        self, last: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        backed_off = np.exp(self.backoffs[last].astype(np.float64) + self.unigram[tokens])
        if not len(self.bigrams.tokens):
            return backed_off
        vocab_size = len(self.unigram)
        keys = self.bigrams.contexts * vocab_size + self.bigrams.tokens
        order = np.argsort(keys)
        wanted = last * vocab_size + tokens
        place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
        return np.where(keys[place] == wanted, self.bigrams.probabilities[place], backed_off)


def _trigram_arrays(
    counts: NgramCounts, below: _Below, width: int, min_count: int, room: int | None
) -> dict[str, Array]:
    vocab_size = len(below.unigram)
    entries = _store(counts, vocab_size, width, min_count)
    if room is not None:
        entries = _pruned(entries, counts, below, room)
    contexts, rows = np.unique(entries.contexts, return_inverse=True)
    befores, last = contexts // vocab_size, contexts % vocab_size
    # Rows lie by last token first, so that a look-up searches one token's contexts only.
    by_last = np.lexsort((befores, last))
    rank = np.empty_like(by_last)
    rank[by_last] = np.arange(len(by_last))
    entries = _sorted(rank[rows], entries.tokens, entries.levels)
    befores, last = befores[by_last], last[by_last]
    lower = below.probabilities(last[entries.contexts], entries.tokens)
    starts = np.searchsorted(last, np.arange(vocab_size + 1)).astype(np.uint32)
    arrays = {"trigram_starts": starts, "trigram_befores": befores.astype(_token_type(vocab_size))}
    backoffs = _backoffs(entries, lower, len(contexts))
    return arrays | _rows("trigram", entries, backoffs, vocab_size)


def _store(counts: NgramCounts, vocab_size: int, width: int, min_count: int) -> _Entries:
    """Discount and round; keep the `width` best continuations of each context."""
    contexts, tokens = counts.keys // vocab_size, counts.keys % vocab_size
    _, rows = np.unique(contexts, return_inverse=True)
    totals = np.bincount(rows, weights=counts.counts)
    probabilities = (counts.counts - counts.discount()) / totals[rows] if len(rows) else rows
    kept = counts.counts >= min_count
    # Rounding down leaves what it takes away to the back-off weight.
    levels = np.ceil(255 * np.sqrt(-np.log(probabilities[kept]) / 16)).clip(0, 255)
    entries = _sorted(contexts[kept], tokens[kept], levels.astype(np.uint8))
    starts = np.searchsorted(entries.contexts, entries.contexts)
    return _selected(entries, np.arange(len(starts)) - starts < width)


def _pruned(entries: _Entries, counts: NgramCounts, below: _Below, room: int) -> _Entries:
    """The trigrams that add most log-likelihood to the text over their bigrams, within `room`."""
    vocab_size = len(below.unigram)
    keys = entries.contexts * vocab_size + entries.tokens
    times = counts.counts[np.searchsorted(counts.keys, keys)]
    lower = below.probabilities(entries.contexts % vocab_size, entries.tokens)
    gains = times * (LEVEL_LOGPROBS[entries.levels] - np.log(lower))
    order = np.argsort(-gains, kind="stable")
    is_new_context = np.zeros(len(order), np.int64)
    is_new_context[np.unique(entries.contexts[order], return_index=True)[1]] = 1
    token_bytes = np.dtype(_token_type(vocab_size)).itemsize
    entry_bytes, context_bytes = token_bytes + 1, token_bytes + 1 + 4
    sizes = np.cumsum(entry_bytes + context_bytes * is_new_context)
    num_kept = np.searchsorted(sizes, room - 4 * (vocab_size + 1), side="right")
    return _selected(entries, np.sort(order[:num_kept]))


def _backoffs(
    entries: _Entries, lower: NDArray[np.float64], num_contexts: int
) -> NDArray[np.float32]:
    """Log of (1 - what is stored) / (1 - what the order below gives the same tokens)."""
    stored = np.bincount(entries.contexts, entries.probabilities, num_contexts)
    # Single precision can put the sum of nearly a whole vocabulary a hair above 1.
    shadowed = np.bincount(entries.contexts, lower, num_contexts).clip(max=1 - 1e-7)
    weights: NDArray[np.float64] = np.log1p(-stored) - np.log1p(-shadowed)
    return weights.astype(np.float32)


def _rows(
    order: str, entries: _Entries, backoffs: NDArray[np.float32], vocab_size: int
) -> dict[str, Array]:
    counts = np.bincount(entries.contexts, minlength=len(backoffs))
    return {
        f"{order}_backoffs": backoffs,
        f"{order}_tokens": entries.tokens.astype(_token_type(vocab_size)),
        f"{order}_levels": entries.levels,
        f"{order}_counts": counts.astype(np.uint8),
    }


def _smoothed(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log-probabilities [V] with half a count added, so that no token is impossible."""
    prior = counts + _UNIGRAM_PRIOR
    logprobs: NDArray[np.float64] = np.log(prior / prior.sum())
    return logprobs.astype(np.float32)


def _sorted(
    contexts: NDArray[np.int64], tokens: NDArray[np.int64], levels: NDArray[np.uint8]
) -> _Entries:
    return _selected(_Entries(contexts, tokens, levels), np.lexsort((tokens, levels, contexts)))


def _selected(entries: _Entries, which: NDArray[Any]) -> _Entries:
    return _Entries(entries.contexts[which], entries.tokens[which], entries.levels[which])


def _token_type(vocab_size: int) -> type[np.uint16 | np.uint32]:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
