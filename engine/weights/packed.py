"""What every layout of a linear layer's weights is, whatever kernels read it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class PackedLinear(nn.Module, ABC):
    """A linear layer, inputs (..., in) to outputs (..., out), whose weights are laid out anew."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """A plain copy of the weights: (out, in)."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """What reading the weights reads."""

    def product(self, inputs: Tensor) -> Tensor:
        """The same by torch's own product, which knows every precision."""
        return nn.functional.linear(inputs, self.weight, self.bias)


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
