"""The filters over whole rows, as plainly as their definitions: what the engine's are held to."""

import math
from collections.abc import Sequence

from torch import Tensor

from engine.candidates import Candidates
from engine.ranking import rank
from engine.request import SamplingParams
from engine.sampling import Sampling


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Logits divided by the temperature, -inf where top-k, top-p or min-p drop the token.

    Filters apply in that order, each to what the one before it left. Ties at a cut are kept.
    """
    if params.temperature != 1.0:
        logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        kth = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -math.inf)
    if params.top_p < 1.0:
        ordered = logits.sort(dim=-1, descending=True).values
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        num_kept = (before < params.top_p).sum(dim=-1, keepdim=True)
        cut = ordered.gather(-1, num_kept.clamp(min=1) - 1)
        logits = logits.masked_fill(logits < cut, -math.inf)
    if params.min_p > 0.0:
        floor = logits.amax(dim=-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return logits


def ranked(sampling: Sampling, logits: Tensor, positions: Sequence[int]) -> Candidates:
    """The candidates of rows of one text."""
    return rank([sampling] * len(positions), positions, logits)


def chosen(sampling: Sampling, logits: Tensor, positions: Sequence[int]) -> list[int]:
    """The tokens of rows of one text."""
    return ranked(sampling, logits, positions).best()
