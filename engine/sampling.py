"""From logits to tokens, for all nodes at once: temperature, top-k, top-p, min-p, noise, argmax.

A token is argmax over x of logit(x) / T + G(seed, position, x), which is an exact sample of the
filtered softmax (Gumbel-max) and depends on nothing that a drafter does.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.noise import NoiseRows
from engine.request import SamplingParams


class Sampler:
    """The sampling rule of one request, shared by the target and every draft stage."""

    def __init__(
        self, params: SamplingParams, vocab_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.params = params
        self.noise = NoiseRows(params.seed, vocab_size, device)

    def perturb(self, logits: Tensor, positions: Sequence[int]) -> Tensor:
        """Filtered logits with the noise of their positions: float32, (nodes, vocabulary).

        `positions[i]` is the index, in the model's whole input, of the token that row `i` chooses.
        The best entry of a row is its token; the next best are what a drafter should offer too.
        """
        logits = logits.float()
        if self.params.is_greedy:
            return logits
        # A draft's vocabulary may be padded to another size than the target's; ids stay the same.
        filtered = filter_logits(logits, self.params)[:, : self.noise.vocab_size]
        if not self.params.is_filtered:
            return filtered + self.noise.rows(positions)[:, : filtered.shape[-1]]
        kept = (filtered > -math.inf).cpu().numpy()
        noise = self.noise.values(positions, [np.flatnonzero(row) for row in kept])
        places = torch.from_numpy(np.flatnonzero(kept)).to(filtered.device)
        noisy = filtered.flatten().index_add(0, places, torch.from_numpy(noise).to(places.device))
        return noisy.view_as(filtered)

    def choose(self, logits: Tensor, positions: Sequence[int]) -> list[int]:
        """The token of every row."""
        tokens: list[int] = self.perturb(logits, positions).argmax(dim=-1).tolist()
        return tokens


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
        logits = _keep_top_p(logits, params.top_p)
    if params.min_p > 0.0:
        floor = logits.amax(dim=-1, keepdim=True) + math.log(params.min_p)
        logits = logits.masked_fill(logits < floor, -math.inf)
    return logits


def _keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely tokens whose probabilities reach `top_p`."""
    ordered = logits.sort(dim=-1, descending=True).values
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    num_kept = (before < top_p).sum(dim=-1, keepdim=True)
    cut = ordered.gather(-1, num_kept.clamp(min=1) - 1)
    return logits.masked_fill(logits < cut, -math.inf)
