"""From logits to tokens, for all nodes at once: temperature, top-k, top-p, min-p, noise, argmax.

A token is argmax over x of logit(x) / T + G(seed, position, x), which is an exact sample of the
filtered softmax (Gumbel-max) and depends on nothing that a drafter does. Filters leave few tokens,
and from there on a row is a short table of those: nothing but the search for them reads the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels import triton_noise
from engine.noise import NoiseRows, as_int64
from engine.request import SamplingParams

_WIDTH = 64
"""How many of the likeliest tokens to look at first where neither top-k nor min-p says it."""
_SPARE = 8
"""How many more than they say, since what ties with the last one is kept too."""
_WIDER = 8

_Ids = NDArray[np.int64]
_Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that can follow some nodes, a row each, and a score for every one of them.

    `scores` is float32, (nodes, width), -inf where there is no candidate. `ids` are the tokens they
    belong to, on the host and in any order; without them column x is token x.
    """

    scores: Tensor
    ids: _Ids | None = None

    def best(self) -> list[int]:
        """The token of the highest score in every row; of equal ones the first."""
        if self.scores.is_cpu:  # numpy's is ten times as fast there
            columns = self.scores.numpy().argmax(axis=-1)
        else:
            columns = self.scores.argmax(dim=-1).cpu().numpy()
        tokens = columns if self.ids is None else self.ids[np.arange(len(columns)), columns]
        best: list[int] = tokens.tolist()
        return best

    def normalised(self) -> "Candidates":
        """The same with scores that are the logarithms of a row's softmax."""
        return Candidates(self.scores.log_softmax(dim=-1), self.ids)

    def top(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The tokens of the highest scores in every row, best first, and these scores."""
        best = self.scores.topk(min(count, self.scores.shape[-1]), dim=-1)
        tokens = best.indices
        if self.ids is not None:
            tokens = torch.from_numpy(self.ids).gather(-1, tokens)
        return tokens.tolist(), best.values.tolist()

    def of(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """The score of one token in each of some rows; -inf for what is no candidate there."""
        if self.ids is None:
            found: list[float] = self.scores[list(rows), list(tokens)].tolist()
            return found
        is_asked = self.ids[list(rows)] == np.array(tokens)[:, None]
        scores = np.where(is_asked, self.scores.numpy()[list(rows)], -math.inf)
        asked: list[float] = scores.max(axis=-1).tolist()
        return asked


class Sampler:
    """The sampling rule of one request, shared by the target and every draft stage."""

    def __init__(
        self, params: SamplingParams, vocab_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.params = params
        self.noise = NoiseRows(params.seed, vocab_size, device)

    def candidates(self, logits: Tensor, positions: Sequence[int]) -> Candidates:
        """What the filters leave of logits (nodes, vocabulary), with the noise of their positions.

        `positions[i]` is the index, in the model's whole input, of the token that row `i` chooses.
        The best candidate is its token; the next best are what a drafter should offer too.
        """
        # A draft's vocabulary may be padded to another size than the target's; ids stay the same.
        logits = logits[:, : self.noise.vocab_size].float()
        if self.params.is_greedy:
            return Candidates(logits)
        if not self.params.is_filtered:
            noise = self._noise_rows(positions, logits.device)[:, : logits.shape[-1]]
            return Candidates(_scaled(logits, self.params) + noise)
        ids, scores = survivors(logits, self.params)
        noisy = scores + self.noise.values(positions, list(ids)).reshape(ids.shape)
        return Candidates(torch.from_numpy(noisy), ids)

    def _noise_rows(self, positions: Sequence[int], device: torch.device) -> Tensor:
        """The noise of whole rows, (positions, vocabulary), made where it is wanted if possible."""
        if device.type != "cuda" or not triton_noise.is_usable():
            return self.noise.rows(positions)
        there = torch.tensor([as_int64(self.params.seed), *positions], device=device)
        return triton_noise.noise_rows(there[:1], there[1:], self.noise.vocab_size)

    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        """The token of every row."""
        return self.candidates(logits, positions).best()


def survivors(logits: Tensor, params: SamplingParams) -> tuple[_Ids, _Scores]:
    """The tokens that top-k, top-p and min-p keep of logits (nodes, vocabulary), likeliest first.

    Two arrays of equal shape, (nodes, width): token ids, and logits divided by the temperature,
    -inf where a column is not kept. Filters apply in that order, each to what the one before it
    left. Ties at a cut are kept.
    """
    size = logits.shape[-1]
    log_total = None
    if params.top_p < 1.0 and not 0 < params.top_k < size:
        log_total = _scaled(logits, params).logsumexp(dim=-1, keepdim=True).cpu().numpy()
    width = _width(logits, params)
    while True:
        likeliest = logits.topk(min(width, size), dim=-1)
        scores: _Scores = _scaled(likeliest.values, params).cpu().numpy()
        is_kept = scores >= _cut(scores, log_total, params)
        is_tied = 0 < params.top_k < size and bool(
            (scores[:, -1] >= scores[:, params.top_k - 1]).any()
        )
        if width >= size or not (is_tied or is_kept[:, -1].any()):
            return likeliest.indices.cpu().numpy(), np.where(is_kept, scores, -np.float32(math.inf))
        width *= _WIDER


def _width(logits: Tensor, params: SamplingParams) -> int:
    """How many of the likeliest tokens of a row to look at first: few, and seldom too few."""
    if params.top_k > 0:
        return params.top_k + _SPARE
    if params.min_p > 0.0:
        floor = logits.amax(dim=-1, keepdim=True) + params.temperature * math.log(params.min_p)
        return int((logits >= floor).sum(dim=-1).max()) + _SPARE
    return _WIDTH


def _scaled(logits: Tensor, params: SamplingParams) -> Tensor:
    return logits if params.temperature == 1.0 else logits / params.temperature


def _cut(scores: _Scores, log_total: _Scores | None, params: SamplingParams) -> _Scores:
    """The least score that the filters keep in each row, (rows, 1); `scores` fall along a row.

    `log_total` is the logarithm of the sum of a whole row's exponentials, where top-k has not ended
    the row.
    """
    best, top_k = scores[:, :1], params.top_k
    cut = np.full_like(best, -math.inf)
    if 0 < top_k <= scores.shape[-1]:
        cut = scores[:, top_k - 1 : top_k]
    if params.top_p < 1.0:
        with np.errstate(invalid="ignore"):  # the best of a broken network may be infinite
            weights = np.exp(np.where(scores >= cut, scores, -math.inf) - best)
            sums = weights.cumsum(axis=-1, dtype=np.float64)
            # The sum of all so far, which no zero behind them changes by a bit.
            total = sums[:, -1:] if log_total is None else np.exp(log_total - best)
        before = sums - weights
        num_kept = (before < params.top_p * total).sum(axis=-1, keepdims=True).clip(min=1)
        cut = np.maximum(cut, np.take_along_axis(scores, num_kept - 1, axis=-1))
    if params.min_p > 0.0:
        cut = np.maximum(cut, best + np.float32(math.log(params.min_p)))
    return cut
