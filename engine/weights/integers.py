"""Weights in 8 or 4 bits: linear layers before there are kernels for them, and embeddings."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.kernels.dots import Codes, paired, parted, quantise, rounded
from engine.weights.packed import AT_ONCE, PackedLinear


def rounded_matrix(rows: Callable[[slice], Tensor], shape: tuple[int, ...], bits: int) -> Codes:
    """A matrix (out, in) in 8 or 4 bits, of which `rows` gives these rows: some at a time.

    What is made of them on the way stays in a cache, and no copy in float32 is ever whole.
    """
    step = max(1, AT_ONCE // shape[1])
    slices = (slice(start, start + step) for start in range(0, shape[0], step))
    found = zip(*(quantise(rows(each), bits) for each in slices), strict=True)
    values, scales, minima = ([*part] for part in found)
    return Codes(torch.cat(values), torch.cat(scales), torch.cat(minima) if bits == 4 else None)


class IntegerLinear(PackedLinear):
    """Weights and inputs rounded by groups of a row; by torch's own product, of them widened.

    Codes of 4 bits are kept as `pairs`, two in a byte, if there are two of each; else `values` are.
    """

    scales: Tensor
    minima: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None, dtype: torch.dtype) -> None:
        """`dtype` is that of the weights as they were loaded."""
        super().__init__(codes.values, bias)
        self.dtype = dtype
        is_paired = codes.minima is not None and self.in_features % 2 == 0
        values = paired(codes.values) if is_paired else codes.values
        self.register_buffer("pairs" if is_paired else "values", values, persistent=False)
        self.register_buffer("scales", codes.scales, persistent=False)
        self.register_buffer("minima", codes.minima, persistent=False)

    def codes(self, outputs: slice = slice(None)) -> Codes:
        """The weights of these outputs, a code in a byte."""
        kept = dict(self.named_buffers(recurse=False))
        values = parted(kept["pairs"][outputs]) if "pairs" in kept else kept["values"][outputs]
        minima = None if self.minima is None else self.minima[outputs]
        return Codes(values, self.scales[outputs], minima)

    def outputs(self, start: int, end: int) -> Tensor:
        """What the weights of these outputs have become, in float32: (end - start, in)."""
        return self.codes(slice(start, end)).plain()

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return sum(part.nbytes for part in self.buffers(recurse=False))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return self.product(rounded(inputs)).to(inputs.dtype)


class IntegerEmbedding(nn.Module):
    """The embedding of every token, of which a pass widens those that it reads."""

    values: Tensor
    scales: Tensor
    minima: Tensor | None

    def __init__(self, codes: Codes, factor: float = 1.0, is_tied: bool = False) -> None:
        """`factor` multiplies what is looked up, as Gemma's embeddings do, and not the weights.

        One that `is_tied` has the weights of the layer that scores tokens.
        """
        super().__init__()
        self.is_tied = is_tied
        self._factor = factor
        for name, part in zip(Codes._fields, codes, strict=True):
            self.register_buffer(name, part, persistent=False)

    @property
    def weight(self) -> Tensor:
        """What the embeddings have become, as plain numbers: (tokens, hidden)."""
        return Codes(self.values, self.scales, self.minima).plain()

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (...) to embeddings (..., hidden), in float32."""
        minima = None if self.minima is None else self.minima[ids]
        found = Codes(self.values[ids], self.scales[ids], minima).plain()
        return found if self._factor == 1 else found * self._factor
