"""Weights laid out once for the machine's matrix kernels, instead of anew in every pass.

A linear layer over few rows is bound by reading its weights. The usual library rearranges them on
every call as soon as there are two rows: a pass of 2 then costs twice a pass of 1. Our kernels
(`engine.kernels`) have a layout of their own, and where there are none oneDNN has one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engine.kernels import linear

_PANELS_IN_CACHE = 8


class PackedLinear(nn.Module, ABC):
    """A linear layer, inputs (..., in) to outputs (..., out), whose weights are laid out anew."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
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


class KernelLinear(PackedLinear):
    """By our kernels."""

    panels: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._dtype = weight.dtype
        self.register_buffer("panels", linear.pack(weight), persistent=False)

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights: (out, in)."""
        return linear.unpack(self.panels, self.out_features).to(self._dtype)

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


class LibraryLinear(PackedLinear):
    """By oneDNN, for who has no compiler, or not yet."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight, bias)
        self._num_bytes = weight.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    @property
    def num_bytes(self) -> int:
        """What reading the weights reads."""
        return self._num_bytes

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights: (out, in)."""
        return cast(Tensor, self._packed.to_dense())

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (..., in) to outputs (..., out)."""
        return cast(
            Tensor,
            torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], ""),
        )


@torch.no_grad()
def pack(module: nn.Module, with_kernels: bool) -> None:
    """Pack every linear layer below `module` for a CPU; again, if there are kernels by now."""
    for name, child in module.named_children():
        if type(child) not in (nn.Linear, Conv1D, LibraryLinear):
            pack(child, with_kernels)
            continue
        if isinstance(child, LibraryLinear) and not with_kernels:
            continue
        weight, bias = cast(Tensor, child.weight).detach(), cast(Tensor | None, child.bias)
        weight = weight.T.contiguous() if isinstance(child, Conv1D) else weight
        if weight.device.type == "cpu" and with_kernels:
            setattr(module, name, KernelLinear(weight, bias))
        elif _suits_library(weight):
            setattr(module, name, LibraryLinear(weight, bias))


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


def _suits_library(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    has_bfloat16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or bool(has_bfloat16)
