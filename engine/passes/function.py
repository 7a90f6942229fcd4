"""One forward pass as a function of tensors alone, which is what can be compiled or captured."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class PassInputs(NamedTuple):
    """What every pass is given: a row for each of `width` tokens, over `length` rows of the cache.

    `ids` and `positions` are (1, width), `slots` (width,) the rows of the cache to write. The masks
    are additive, (1, 1, width, length): `mask` for full attention, `windowed_mask` for layers with
    a sliding window.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    mask: Tensor
    windowed_mask: Tensor

    @property
    def width(self) -> int:
        """Tokens in the pass."""
        return self.ids.shape[1]


class PassFunction(nn.Module, ABC):
    """A network as a function from tensors to tensors; its only effect is on the cache's rows."""

    description: str
    """What decides the function beside its weights: the network's configuration."""

    @abstractmethod
    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        mask: Tensor,
        windowed_mask: Tensor,
        *rest: Tensor,
        num_logits: int = 0,
    ) -> tuple[Tensor, ...]:
        """The pass's outputs, logits (rows, vocabulary) first.

        `rest` are the pass's own further inputs, (1, width, ...) each, and the rows of the cache.
        At least the last `num_logits` rows get logits; 0 means all rows.
        """
