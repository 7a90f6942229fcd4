"""What every layout of a linear layer's weights is, whatever kernels read it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

AT_ONCE = 2**18
"""Weights of which a cache, the second of most, holds plain copies."""
_PANEL = 32
"""Outputs: as many as the widest panels have, or a multiple."""


class PackedLinear(nn.Module, ABC):
    """A linear layer, inputs (..., in) to outputs (..., out), whose weights are laid out anew."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias

    @abstractmethod
    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs, (end - start, in); panels are not cut."""

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights: (out, in)."""
        return self.outputs(0, self.out_features)

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """What reading the weights reads."""

    def product(self, inputs: Tensor) -> Tensor:
        """The same by torch's own product, which knows every precision, of some outputs at a time.

        No plain copy of a matrix is whole, which would be written to memory and read from there.
        """
        step = max(1, AT_ONCE // self.in_features // _PANEL) * _PANEL
        if inputs.device.type != "cpu":
            step = self.out_features  # there launches are what counts
        ends = [*range(step, self.out_features, step), self.out_features]
        weights = (self.outputs(start, end) for start, end in zip([0, *ends], ends, strict=False))
        parts = [nn.functional.linear(inputs, weight.to(inputs.dtype)) for weight in weights]
        outputs = torch.cat(parts, dim=-1)
        return outputs if self.bias is None else outputs + self.bias


@contextmanager
def unpacked(module: nn.Module) -> Iterator[None]:
    """Let packed layers be computed by torch's own product for a while, in whatever precision."""
    layers = [each for each in module.modules() if isinstance(each, PackedLinear)]
    for layer in layers:
        layer.forward = layer.product
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
