"""What a network computes in: its numbers, and how the weights of its products are kept."""

from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """A format of weights and the arithmetic over it, which together decide a text.

    `dtype` is that of everything but the products; `reason` says why it is this precision, as the
    end of a sentence on it.
    """

    name: str
    dtype: torch.dtype
    reason: str = "as given"

    @classmethod
    def of(cls, dtype: torch.dtype, reason: str = "as given") -> "Precision":
        """That of numbers alone, by whose name it goes."""
        return cls(str(dtype).removeprefix("torch."), dtype, reason)

    @property
    def is_quantised(self) -> bool:
        """Whether weights are kept in fewer bits than any number of torch's has."""
        return self.name in BITS

    @property
    def rounds_inputs(self) -> bool:
        """Whether products round what they are given: then a last bit of it may change a text."""
        return self.is_quantised or self.dtype != torch.float32


INT8, INT4 = "int8", "int4"
BITS = {INT8: 8, INT4: 4}
"""Of weights; all else, and the sums of groups, are in float32. The output matrix has no less than
8, nor have the weights of a GGUF file that has 5 or 6 of them."""
