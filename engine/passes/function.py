"""One forward pass as a function of tensors alone, which is what can be compiled or captured."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class PassInputs(NamedTuple):
    """What every pass is given, in the host's memory: a row for each of `width` tokens.

    `ids` and `positions` are (1, width), `slots` (width,) the rows of the cache to write, `prefix`
    (1,) how many rows of the cache every row sees; all of int64. What rows see behind the prefix
    is in the bits of `visible`, (width, bytes), and for layers with a sliding window of `windowed`;
    see `attention.PackedMasks`.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    prefix: Tensor
    visible: Tensor
    windowed: Tensor

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
        prefix: Tensor,
        visible: Tensor,
        windowed: Tensor,
        *rest: Tensor,
        num_logits: int = 0,
        length: int | None = None,
    ) -> tuple[Tensor, ...]:
        """The pass's outputs, logits (rows, vocabulary) first.

        `rest` are the pass's own further inputs, (1, width, ...) each, and the rows of the cache.
        At least the last `num_logits` rows get logits; 0 means all rows. Who must write masks out
        reads the first `length` rows of the cache, all if None.
        """
