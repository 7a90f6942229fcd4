"""The filters: which tokens are left to choose from. One function of arrays, for all rows at once.

The target's rows, a draft's, and those that a draft ranks on its own device cross it alike. Every
parameter is a column: a number for each row of scores, or one number for them all.

Top-n-sigma looks at whole rows, and the temperature divides. Then, each on what the one before it
left: top-k, typical-p, top-p, min-p, XTC. What ties at a cut is kept.
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

_NEVER = np.float32(-math.inf)

EVERY = 1 << 24
"""A top-k that keeps every token: more than any vocabulary has."""

_PARTS = 2.0**34


class Filters(NamedTuple):
    """Columns: a number for all rows, or an array (rows, 1); None where no row has that filter.

    A row without a filter that others have has a value with which it keeps every token: `EVERY`,
    infinity, or minus infinity for `min_p`, which is a logarithm like `xtc_threshold`.
    """

    temperature: Array | None = None
    top_k: Array | None = None
    top_p: Array | None = None
    min_p: Array | None = None
    typical_p: Array | None = None
    xtc_threshold: Array | None = None
    top_n_sigma: Array | None = None

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocab_size: int) -> Self:
        """The columns of rows that are sampled so, on the host; XTC is not at work in any."""
        top_k = [each.top_k if 0 < each.top_k < vocab_size else EVERY for each in params]
        # Of a share of 0 the best token is left.
        top_p = [max(each.top_p, 1e-12) if each.top_p < 1 else math.inf for each in params]
        typical_p = [each.typical_p if each.typical_p < 1 else math.inf for each in params]
        return cls(
            temperature=_column([each.temperature for each in params], 1.0),
            top_k=_column(top_k, EVERY, np.int64),
            top_p=_column(top_p, math.inf, np.float64),
            min_p=_column([_log(each.min_p) for each in params], -math.inf),
            typical_p=_column(typical_p, math.inf, np.float64),
            top_n_sigma=_column([each.top_n_sigma or math.inf for each in params], math.inf),
        )


def parts(distances: Array) -> Array:
    """The shares of tokens by their distances from the best one, in whole parts of its: float64.

    The sums of whole numbers are exact in whatever order: a row's are the same in any company, and
    in a kernel (`kernels/choosing.cpp`).
    """
    library = _library(distances)
    doubles = distances.astype(np.float64) if library is np else distances.double()
    return library.round(library.exp(doubles) * _PARTS)


def keep(scores: Array, filters: Filters, total: Array | None = None) -> Array:
    """Scores (rows, width) with minus infinity where a token is not kept.

    They are logits over the temperature and fall along a row: the likeliest, or all; for XTC alone
    they need not fall. Where neither top-k nor typical-p ends a row that goes on behind them,
    `total` (rows, 1) are the `parts` of all of its tokens. Nothing waits for a device, so a call
    can be recorded.
    """
    if filters.top_k is not None:
        scores = _without(scores, scores < kth(scores, filters.top_k))
    if filters.typical_p is not None:
        scores = _typical(scores, filters.typical_p)
    if filters.top_p is not None:
        scores = _without(scores, scores < _least_of_top_p(scores, filters, total))
    if filters.min_p is not None:
        scores = _without(scores, scores < _best(scores, filters) + filters.min_p)
    if filters.xtc_threshold is not None:
        scores = _without_top_choices(scores, filters.xtc_threshold)
    return scores


def kth(scores: Array, top_k: Array) -> Array:
    """The score at the cut of top-k in each row, (rows, 1): the last one where it keeps more."""
    if isinstance(top_k, int):
        return scores[:, min(top_k, scores.shape[-1]) - 1, None]
    return _at(scores, top_k.clip(max=scores.shape[-1]) - 1)


def is_narrowed(filters: Filters) -> Array | bool:
    """Whether filters before top-p have left a row few tokens, of which shares are then."""
    is_few: Array | bool = False
    if filters.top_k is not None:
        is_few = filters.top_k < EVERY
    if filters.typical_p is not None:
        is_few = is_few | (filters.typical_p < math.inf)
    return is_few


def above_sigma(logits: Tensor, top_n_sigma: Array) -> Tensor:
    """Whole rows of logits, minus infinity where so many standard deviations below the best."""
    is_there = logits > -math.inf
    count = is_there.sum(dim=-1, keepdim=True)
    mean = logits.masked_fill(~is_there, 0.0).sum(dim=-1, keepdim=True) / count
    squares = (logits - mean).square().masked_fill(~is_there, 0.0)
    deviation = (squares.sum(dim=-1, keepdim=True) / count).sqrt()
    floor = logits.amax(dim=-1, keepdim=True) - top_n_sigma * deviation
    return logits.masked_fill(logits < floor, -math.inf)


def _typical(scores: Array, typical_p: Array) -> Array:
    """The tokens whose surprise is nearest to the row's entropy, until their mass is enough."""
    library = _library(scores)
    surprise = _log_sum(scores) - scores
    shares = library.exp(-surprise)
    terms = library.where(shares > 0, surprise * shares, shares)
    strangeness = library.abs(surprise - library.sum(terms, axis=-1, keepdims=True))
    order = library.argsort(strangeness, axis=-1)
    ordered = _at(shares, order)
    before = library.cumsum(ordered, axis=-1, dtype=library.float64) - ordered
    num_kept = (before < typical_p).sum(axis=-1, keepdims=True)
    last = _at(order, num_kept + (num_kept < 1) - 1)
    return _without(scores, strangeness > _at(strangeness, last))


def _least_of_top_p(scores: Array, filters: Filters, total: Array | None) -> Array:
    """The score at the cut of top-p: of the last token before which the mass does not reach it."""
    library = _library(scores)
    own = parts(scores - _best(scores, filters))
    sums = library.cumsum(own, axis=-1)
    mass = sums[:, -1:]
    if total is not None:
        is_few = is_narrowed(filters)
        mass = total if is_few is False else library.where(is_few, mass, total)
    is_before = sums - own < filters.top_p * mass
    num_kept = is_before.sum(axis=-1, keepdims=True)
    return _at(scores, num_kept + (num_kept < 1) - 1)


def _without_top_choices(scores: Array, threshold: Array) -> Array:
    """XTC: of the tokens that reach the threshold, the least likely alone."""
    is_likely = scores - _log_sum(scores) >= threshold
    others = _without(-scores, ~is_likely)
    return _without(scores, is_likely & (scores > -_greatest(others)))


def _best(scores: Array, filters: Filters) -> Array:
    """The greatest score of each row; the first, but for what typical-p has left out."""
    return scores[:, :1] if filters.typical_p is None else _greatest(scores)


def _greatest(scores: Array) -> Array:
    return _library(scores).amax(scores, axis=-1, keepdims=True)


def _log_sum(scores: Array) -> Array:
    """The logarithm of the sum of each row's exponentials."""
    library, best = _library(scores), _greatest(scores)
    total = library.sum(library.exp(scores - best), axis=-1, keepdims=True)
    return best + library.log(total)


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
    return np.where(is_dropped, _NEVER, scores)


def _column(values: list[Any], off: float, dtype: type = np.float32) -> Array | None:
    """Of one value that number, of several an array, of none that filters nothing."""
    if all(value == off for value in values):
        return None
    return values[0] if len(values) == 1 else np.array(values, dtype)[:, None]


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
