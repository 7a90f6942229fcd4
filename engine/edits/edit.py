"""The contract of an edit: which columns of a row it touches, and what it does to them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


class Touched(NamedTuple):
    """Token ids that differ, and figures of each: (ids,) and (figures, ids) float32."""

    ids: Ids
    figures: NDArray[np.float32]


class Edit(Protocol):
    """One kind of change to the logits of one text."""

    def touched(self, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        """What changes after a text's tokens, which only ever grow, and a path of more."""

    @staticmethod
    def apply(logits: Tensor, places: Tensor, figures: Tensor) -> None:
        """Change these places of logits (n,), in place; figures are (figures, places)."""
