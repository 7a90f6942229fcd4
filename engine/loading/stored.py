"""What every file of weights is to who fills a network: weights by name, and the rows of each.

A file has a weight in plain numbers, or in codes of its own with their scales. Who reads it says
what numbers they stand for, and, where they are what our products read, the codes as they are.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor
from transformers import PreTrainedModel

from engine.errors import ModelLoadError
from engine.kernels.dots import Codes
from engine.weights import BITS, INT4, INT8, rounded_matrix

NUMBERS = 16
"""Bits, or more: of weights that are plain numbers."""
_ALL = slice(None)


class Rows(ABC):
    """A weight that has been read: (..., in), of which a matrix can be had some rows at a time."""

    bits: int = NUMBERS
    """Of a weight, in the file."""

    @abstractmethod
    def plain(self, rows: slice = _ALL) -> Tensor:
        """The numbers that these rows stand for, in a floating point that holds them."""

    def codes(self) -> Codes | None:
        """A matrix as our products read it, if that takes no rounding but of scales."""
        return None


class Numbers(Rows):
    """Plain numbers."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def plain(self, rows: slice = _ALL) -> Tensor:
        """Themselves."""
        return self._values[rows] if self._values.dim() else self._values


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight by its name in a file; `kind` is what its form is called there, in `bits` a weight.

    `read` reads it, and keeps nothing.
    """

    name: str
    kind: str
    bits: int
    shape: tuple[int, ...]
    read: Callable[[], Rows]


class ComposedError(ModelLoadError):
    """A network has in one weight what a file has in several, such as those of experts."""


class Source(ABC):
    """The weights of a model, one after another."""

    def __init__(self, weights: Sequence[StoredWeight]) -> None:
        self.weights = tuple(weights)

    @abstractmethod
    def keys(self, network: PreTrainedModel) -> Mapping[str, str | None]:
        """What a network calls each of the weights; None for one that no network has.

        Raises ComposedError for weights that are not kept as the network has them.
        """

    @property
    def precision(self) -> str | None:
        """That which most weights of matrices are kept for; None if that is plain numbers."""
        found: dict[str | None, int] = defaultdict(int, {None: 0})
        for each in self.weights:
            # Of the embedding a pass reads a few rows.
            if len(each.shape) > 1 and "embd" not in each.name and "embed" not in each.name:
                found[_precision(each.bits)] += prod(each.shape)
        return max(found, key=lambda name: found[name])


def _precision(bits: int) -> str | None:
    return None if bits >= NUMBERS else INT4 if bits == BITS[INT4] else INT8


def codes_of(
    weight: Rows, shape: tuple[int, ...], precision: str, keeps_bits: bool
) -> tuple[Codes, bool]:
    """A matrix of this shape as codes of a precision, and whether they are the file's own.

    Those in 4 bits, or in 8 and not to be rounded to 4, are taken as they are, if they can be.
    Plain numbers, and 8 bits, are rounded to the bits of the precision, unless it `keeps_bits`:
    then to no less than 8. Whatever else there is, in 5 or 6 bits or in other groups, is widened
    to 8.
    """
    is_kept = weight.bits == 4 or (weight.bits == 8 and (precision == INT8 or keeps_bits))
    if is_kept and (codes := weight.codes()) is not None:
        return codes, True
    is_widened = keeps_bits or weight.bits < 8
    return rounded_matrix(weight.plain, shape, 8 if is_widened else BITS[precision]), False
