"""Weights for oneDNN, the library that torch comes with."""

from typing import cast

import torch
from torch import Tensor, nn

from engine.weights.packed import PackedLinear


class LibraryLinear(PackedLinear):
    """By oneDNN, for who has no compiler, or not yet."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._num_bytes = weight.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether the library is there, and has products of this precision for this processor."""
        if weight.device.type != "cpu" or not torch._C._has_mkldnn:
            return False
        is_bfloat16 = weight.dtype == torch.bfloat16
        has_bfloat16 = is_bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return weight.dtype == torch.float32 or bool(has_bfloat16)

    def outputs(self, start: int, end: int) -> Tensor:
        """A plain copy of the weights of these outputs: (end - start, in)."""
        return cast(Tensor, self._packed.to_dense())[start:end]

    def product(self, inputs: Tensor) -> Tensor:
        """The same at once: what oneDNN has laid out it gives back whole."""
        return nn.functional.linear(inputs, self.weight, self.bias)

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self._num_bytes

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return cast(
            Tensor,
            torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], ""),
        )
