"""How the tokens of a text are chosen: what was asked for, its noise, and its edits."""

import math
from typing import Literal

import torch

from engine.edits import edits_of
from engine.filters import EVERY, Filters
from engine.grammar import Matcher
from engine.kernels.choosing import Rule
from engine.noise import NoiseRows, as_int64
from engine.request import SamplingParams

Kind = Literal["greedy", "whole", "filtered"]
"""No noise; noise for every token; noise for the few that filters leave."""

_WIDTH = 64
"""How many of the likeliest tokens to look at first where neither top-k nor min-p says it."""
SPARE = 8
"""How many more than they say, since what ties with the last one is kept too."""


class Sampling:
    """How the tokens of one text are chosen, by the target and every draft stage alike.

    `edits` change its logits beforehand. Its first `num_prompt` tokens are a prompt, and what it
    may not say before its `min_tokens` are `stop_ids`. A `grammar` has what may follow at all.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        device: torch.device | str = "cpu",
        num_prompt: int = 0,
        stop_ids: frozenset[int] = frozenset(),
        grammar: Matcher | None = None,
    ) -> None:
        self.params = params
        self.grammar = grammar
        self.vocab_size = vocab_size
        self.noise = NoiseRows(params.seed, vocab_size, device)
        self.edits = edits_of(params, vocab_size, num_prompt, stop_ids)
        self.is_edited = bool(self.edits) or grammar is not None
        """Whether what follows depends on more than logits, noise and filters."""
        self.filters = Filters.of([params], vocab_size)
        self.kind: Kind = "whole"
        if params.is_greedy:
            self.kind = "greedy"
        elif params.is_filtered:
            self.kind = "filtered"
        self.is_excluding = params.is_excluding
        self.rule = _rule(params, self.filters)
        """All that is asked of a row that has been edited; None if a kernel knows not all of it."""
        self.width = _WIDTH
        if params.top_k:
            self.width = params.top_k + SPARE
        elif params.typical_p < 1:
            self.width = vocab_size
        elif params.min_p:
            self.width = 0  # that of a row is asked of the row

    @property
    def is_plain(self) -> bool:
        """Whether temperature, top-k, top-p and min-p are all that is asked for."""
        return not self.is_edited and self.rule is not None

    def xtc_threshold(self, position: int) -> float:
        """The logarithm of the share that XTC looks for there, infinity where it is not at work."""
        params = self.params
        is_at_work = self.is_excluding and self.noise.draw(position) < params.xtc_probability
        return math.log(max(params.xtc_threshold, 1e-30)) if is_at_work else math.inf


def _rule(params: SamplingParams, filters: Filters) -> Rule | None:
    """The same for a kernel, which knows neither typical-p, top-n-sigma nor XTC."""
    is_rare = params.is_excluding or params.typical_p < 1 or params.top_n_sigma > 0
    if is_rare and not params.is_greedy:
        return None
    return Rule(
        as_int64(params.seed),
        0.0 if params.is_greedy else params.temperature,
        EVERY if filters.top_k is None else filters.top_k,
        math.inf if filters.top_p is None else filters.top_p,
        -math.inf if filters.min_p is None else filters.min_p,
    )
