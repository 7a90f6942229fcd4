"""Weights for our own kernels, in panels of rows."""

import torch
from torch import Tensor, nn

from engine.kernels import linear
from engine.weights.packed import PackedLinear

_PANELS_IN_CACHE = 8


class KernelLinear(PackedLinear):
    """By our kernels, which keep weights that are exact in bfloat16 in that."""

    panels: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("panels", linear.pack(weight), persistent=False)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether the weights are on a CPU: they may have any precision."""
        return weight.device.type == "cpu"

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights: (out, in)."""
        return linear.unpack(self.panels, self.out_features).to(self.dtype)

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self.panels.nbytes

    def product(self, inputs: Tensor) -> Tensor:
        """The same by torch's own product, of a few panels at a time, which a cache can hold."""
        starts = range(0, len(self.panels), _PANELS_IN_CACHE)
        parts = (self.panels[start : start + _PANELS_IN_CACHE] for start in starts)
        weights = (linear.unpack(part, part.shape[0] * part.shape[2]) for part in parts)
        outputs = torch.cat([nn.functional.linear(inputs, weight) for weight in weights], dim=-1)
        outputs = outputs[..., : self.out_features]
        return outputs if self.bias is None else outputs + self.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return linear.multiply(inputs, self.panels, self.bias, self.out_features)
