"""`logit_bias`: what a request adds to the logits of some tokens."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine.edits.edit import Touched


class Bias:
    """A number for each of some tokens, wherever the text is."""

    def __init__(self, logit_bias: Sequence[tuple[int, float]]) -> None:
        ids, values = zip(*logit_bias, strict=True)
        self._touched = Touched(np.array(ids, np.int64), np.array([values], np.float32))

    def touched(self, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        """Always the same."""
        return self._touched

    @staticmethod
    def apply(logits: Tensor, places: Tensor, figures: Tensor) -> None:
        """Add."""
        logits.index_add_(0, places, figures[0])
