"""The filters: which tokens are left to choose from. One function of arrays, for all rows at once.

The target's rows, a draft's, and those that a draft ranks on its own device cross it alike. Every
parameter is a column: a number for each row of scores, or one number for them all.

The temperature divides first. Then, each on what the one before it left: top-k, top-p, min-p. What
ties at a cut is kept.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from engine.request import SamplingParams

Array = Any
"""Of numpy on the host, where it is the sooner called, or a tensor. What is used here is both's."""

EVERY = 1 << 24
"""A top-k that keeps every token: more than any vocabulary has."""


class Filters(NamedTuple):
    """Columns: a number for all rows, or an array (rows, 1); None where no row has that filter.

    A row without a filter that others have has a value with which it keeps every token: `EVERY`,
    infinity, or minus infinity for `min_p`, which is a logarithm.
    """

    temperature: Array | None = None
    top_k: Array | None = None
    top_p: Array | None = None
    min_p: Array | None = None

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocab_size: int) -> Self:
        """The columns of rows that are sampled so, on the host."""
        top_k = [each.top_k if 0 < each.top_k < vocab_size else EVERY for each in params]
        top_p = [each.top_p if each.top_p < 1 else math.inf for each in params]
        return cls(
            temperature=_column([each.temperature for each in params], 1.0),
            top_k=_column(top_k, EVERY, np.int64),
            top_p=_column(top_p, math.inf, np.float64),
            min_p=_column([_log(each.min_p) for each in params], -math.inf),
        )


def keep(scores: Array, filters: Filters, log_total: Array | None = None) -> Array:
    """Scores (rows, width) with minus infinity where a token is not kept.

    They are logits over the temperature and fall along a row: the likeliest, or all. Where top-k
    does not end a row that goes on behind them, `log_total` (rows, 1) is the logarithm of the sum
    of its whole exponentials. Nothing waits for a device, so a call can be recorded.
    """
    if filters.top_k is not None:
        scores = _without(scores, scores < kth(scores, filters.top_k))
    if filters.top_p is not None:
        scores = _without(scores, scores < _least_of_top_p(scores, filters, log_total))
    if filters.min_p is not None:
        scores = _without(scores, scores < scores[:, :1] + filters.min_p)
    return scores


def kth(scores: Array, top_k: Array) -> Array:
    """The score at the cut of top-k in each row, (rows, 1): the last one where it keeps more."""
    if isinstance(top_k, int):
        return scores[:, min(top_k, scores.shape[-1]) - 1, None]
    return _at(scores, top_k.clip(max=scores.shape[-1]) - 1)


def _least_of_top_p(scores: Array, filters: Filters, log_total: Array | None) -> Array:
    """The score at the cut of top-p: of the last token before which the mass does not reach it."""
    library = _library(scores)
    best = scores[:, :1]
    weights = library.exp(scores - best)
    sums = library.cumsum(weights, axis=-1, dtype=library.float64)
    # The sum of all so far, which no zero behind them changes by a bit.
    total = sums[:, -1:]
    if log_total is not None:
        whole = library.exp(log_total - best)
        top_k = filters.top_k
        total = whole if top_k is None else library.where(top_k < EVERY, total, whole)
    is_before = sums - weights < filters.top_p * total
    num_kept = is_before.sum(axis=-1, keepdims=True)
    return _at(scores, num_kept + (num_kept < 1) - 1)


def _library(scores: Array) -> Any:
    return torch if isinstance(scores, Tensor) else np


def _at(scores: Array, places: Array) -> Array:
    """The scores at places (rows, n) of each row."""
    if isinstance(scores, Tensor):
        return torch.take_along_dim(scores, places, dim=-1)
    return scores[np.arange(len(scores))[:, None], places]


def _without(scores: Array, is_dropped: Array) -> Array:
    if isinstance(scores, Tensor):
        return scores.masked_fill(is_dropped, -math.inf)
    return np.where(is_dropped, -np.float32(math.inf), scores)


def _column(values: list[Any], off: float, dtype: type = np.float32) -> Array | None:
    """Of one value that number, of several an array, of none that filters nothing."""
    if all(value == off for value in values):
        return None
    return values[0] if len(values) == 1 else np.array(values, dtype)[:, None]


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
