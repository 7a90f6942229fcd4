"""Weights laid out once for the matrix kernels of a CPU, instead of anew in every pass.

A linear layer over few rows is bound by reading its weights. The usual library rearranges them on
every call as soon as there are two rows: a pass of 2 then costs twice a pass of 1. oneDNN keeps
them rearranged.
"""

from typing import cast

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """`nn.Linear` with its weights in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

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
def pack(module: nn.Module) -> None:
    """Pack every linear layer below `module`, where the machine has such kernels."""
    for name, child in module.named_children():
        if type(child) is nn.Linear and _is_packable(child.weight):
            setattr(module, name, PackedLinear(child))
        else:
            pack(child)


@torch.no_grad()
def unpack(module: nn.Module) -> None:
    """Undo `pack`: a compiler lays out the weights in its own way."""
    for name, child in module.named_children():
        if isinstance(child, PackedLinear):
            linear = nn.Linear(child.in_features, child.out_features, bias=False)
            linear.weight = nn.Parameter(child.weight, requires_grad=False)
            linear.bias = child.bias
            setattr(module, name, linear)
        else:
            unpack(child)


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    has_bfloat16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or bool(has_bfloat16)
