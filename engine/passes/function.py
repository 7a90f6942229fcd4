"""One forward pass as a function of tensors alone, which is what can be compiled or captured."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn

from engine.kv_cache import Cache
from engine.masks import Extent
from engine.recurrent import Sizes, States

Form = Literal["eager", "compiled", "captured"]

LONGEST_REASON = 200
"""Characters of an error that are told of why passes stay eager."""
Run = Callable[[], object]
Record = Callable[[Run], Run]
"""Turns what runs a pass into what replays it."""


class PassInputs(NamedTuple):
    """What every pass is given, in the host's memory: a row for each of `width` tokens.

    `rows` (5, width), of int64, are ids, the rows of the cache to write, positions, and the rows of
    the cache where each row's text begins and where its committed rows end. What a row sees behind
    these is in the bits of `visible`, (width, bytes), and for layers with a sliding window of
    `windowed`; see `kernels.sight.Sight`, whose places are the last three of `rows`. The rows that
    get logits are `scored`, of int64: those of a prompt are not.
    """

    rows: Tensor
    visible: Tensor
    windowed: Tensor
    scored: Tensor

    @property
    def width(self) -> int:
        """Tokens in the pass."""
        return self.rows.shape[1]


class Example(NamedTuple):
    """Arguments of a function: the common inputs, the pass's own, and the rows of the cache, with
    what layers keep in place of rows behind them."""

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

    @property
    def widest(self) -> int | None:
        """The most rows at once, where more are better run in turns; None: by the function."""

    def padding(self, width: int) -> int | None:
        """How many rows to put before so many; None if they are better run by the function."""

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The function's outputs, padding first; `extra` may lack the rows of the padding."""


class PassFunction(nn.Module, ABC):
    """A network as a function from tensors to tensors; its only effect is on the cache's rows."""

    description: str
    """What decides the function beside its weights: the network's configuration."""
    window: int = 0
    """How many positions layers with a sliding window see; 0 if there are none."""
    carry_size: int = 0
    """How many figures a row hands down to its children's rows, beside those in the cache."""
    network: nn.Module
    states: States | None = None
    """What layers without rows keep in the cache, set by whoever makes that; None if all have."""

    def sizes(self, width: int) -> Sequence[Sizes | None]:
        """Of all groupings of that width, those that must be known before, the smallest first."""
        return (None,) if self.states is None else self.states.sizes(width)

    def grouping(self, rows: Tensor, sizes: Sizes | None = None) -> Sequence[Tensor]:
        """What it is given of a pass's `rows`, behind the common inputs, that the host must find
        out; filled up to these sizes, if any."""
        return () if self.states is None else self.states.grouping(rows, sizes)

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The network's layers, which are alike and do most of its work."""

    @abstractmethod
    def probe(self, cache: Cache) -> None:
        """Run the network over one token, so that it writes to this cache."""

    def extra(self, width: int) -> tuple[Tensor, ...]:
        """Examples of the inputs that this network's pass has beside the common ones."""
        return ()

    @abstractmethod
    def forward(
        self,
        rows: Tensor,
        visible: Tensor,
        windowed: Tensor,
        scored: Tensor,
        *rest: Tensor,
        extents: Sequence[Extent] | None = None,
    ) -> tuple[Tensor, ...]:
        """The pass's outputs: logits (scored, vocabulary), and others of all rows.

        `rest` are its `grouping`, the pass's own further inputs, (1, width, ...) each, and the rows
        of the cache, with what layers keep in place of rows behind them. Who must write masks out
        reads the `extents` of the cache, text by text, or for all rows the whole cache.
        """
