"""One forward pass as a function of tensors alone, which is what can be compiled or captured."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

Form = Literal["eager", "compiled", "captured"]

MAX_WIDTH = 64
"""Wider passes, of prompts, run eagerly: they are bound by arithmetic, not by overhead."""
LONGEST_REASON = 200
"""Characters of an error that are told of why passes stay eager."""
Run = Callable[[], object]
Record = Callable[[Run], Run]
"""Turns what runs a pass into what replays it."""


class PassInputs(NamedTuple):
    """What every pass is given, in the host's memory: a row for each of `width` tokens.

    `tokens` (3, width) are ids, positions, and the rows of the cache to write; `prefix` (1,) is how
    many rows of the cache every row sees; all of int64. What rows see behind the prefix is in the
    bits of `visible`, (width, bytes), and for layers with a sliding window of `windowed`; see
    `attention.PackedMasks`.
    """

    tokens: Tensor
    prefix: Tensor
    visible: Tensor
    windowed: Tensor

    @property
    def width(self) -> int:
        """Tokens in the pass."""
        return self.tokens.shape[1]


class Example(NamedTuple):
    """Arguments of a function: the common inputs, the pass's own, and the rows of the cache."""

    inputs: PassInputs
    extra: Sequence[Tensor]
    rows: Sequence[Tensor]


MakeExample = Callable[[int, int | None], Example]
"""Arguments of a pass of a width whose own rows end the first so many of the cache, all if None."""


class FastPasses(Protocol):
    """Passes of one function over one cache that are faster than the function itself."""

    @property
    def function(self) -> Callable[..., tuple[Tensor, ...]]:
        """The function, in the form in which it may be recorded as a part of something larger."""

    @property
    def form(self) -> Form:
        """What they are called."""

    def padding(self, width: int) -> int | None:
        """How many rows to put before so many; None if they are better run by the function."""

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, of all rows, padding first; `extra` may lack the rows of the padding."""


class PassFunction(nn.Module, ABC):
    """A network as a function from tensors to tensors; its only effect is on the cache's rows."""

    description: str
    """What decides the function beside its weights: the network's configuration."""
    window: int = 0
    """How many positions layers with a sliding window see; 0 if there are none."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The network's layers, which are alike and do most of its work."""

    @abstractmethod
    def forward(
        self,
        tokens: Tensor,
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
