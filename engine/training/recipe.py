"""How long and how to train: a budget, and a schedule over the share of it that is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Lengths = tuple[tuple[float, int], ...]
"""Tokens per sequence from a share of the budget on."""

LONG_LENGTHS: Lengths = ((0.0, 256), (0.4, 512), (0.7, 1024), (0.88, 2048))
"""A single layer does not carry over to positions it has not seen: the long ones start early."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how to train; the budget is spent when minutes or steps are, whichever first.

    `is_half` computes products in bfloat16, which a GPU does several times faster; weights and what
    is measured stay in float32.
    """

    minutes: float
    max_steps: int | None = None
    batch_tokens: int = 4096
    lengths: Lengths = ((0.0, 256), (0.75, 512), (0.92, 1024))
    warmup_share: float = 0.02
    decay_share: float = 0.6
    measure_every: int = 50
    seed: int = 17
    is_compiled: bool = False
    is_half: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(length for _, length in self.lengths)

    def up_to(self, length: int) -> Recipe:
        """The same with no sequence longer than `length`."""
        capped = tuple((start, min(each, length)) for start, each in self.lengths)
        return replace(self, lengths=capped)

    def length_at(self, spent: float) -> int:
        """Tokens per sequence once a share of the budget is spent: the longer ones come last."""
        return max(length for start, length in self.lengths if start <= spent)

    def rate_at(self, spent: float) -> float:
        """The factor on the learning rates: linear warm-up, a plateau, a cosine to zero."""
        if spent < self.warmup_share:
            return max(0.02, spent / self.warmup_share)
        decayed = max(0.0, spent - (1 - self.decay_share)) / self.decay_share
        return 0.5 * (1 + math.cos(math.pi * min(1.0, decayed)))
