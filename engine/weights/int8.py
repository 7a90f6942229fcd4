"""Weights in 8 bits, before there are kernels for them."""

from torch import Tensor, nn

from engine.kernels import dots
from engine.weights.packed import PackedLinear


class Int8Linear(PackedLinear):
    """Weights rounded by output, inputs by groups of a row; by torch's own product, widened."""

    quantised: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        quantised, scales = dots.quantise(weight)
        self.register_buffer("quantised", quantised, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether the weights are on a CPU: they may have any precision."""
        return weight.device.type == "cpu"

    @property
    def weight(self) -> Tensor:
        """What the weights have become, as plain numbers: (out, in)."""
        return self.quantised * self.scales[:, None]

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self.quantised.nbytes

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return nn.functional.linear(dots.rounded(inputs), self.weight, self.bias).to(inputs.dtype)
