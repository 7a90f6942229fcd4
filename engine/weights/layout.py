"""Which layout a network's weights get on this machine."""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engine.weights.kernel import KernelLinear
from engine.weights.library import LibraryLinear
from engine.weights.packed import PackedLinear


def lay_out(network: nn.Module, has_kernels: bool) -> None:
    """Lay out every linear layer of a network; again, if there are kernels of ours by now.

    What no layout suits stays as it is, as on a GPU.
    """
    _lay_out(network, KernelLinear if has_kernels else LibraryLinear)


@torch.no_grad()
def _lay_out(module: nn.Module, layout: type[PackedLinear]) -> None:
    for name, child in module.named_children():
        if type(child) not in (nn.Linear, Conv1D, LibraryLinear):
            _lay_out(child, layout)
            continue
        if isinstance(child, layout):
            continue
        weight, bias = cast(Tensor, child.weight).detach(), cast(Tensor | None, child.bias)
        weight = weight.T.contiguous() if isinstance(child, Conv1D) else weight
        if layout.suits(weight):
            setattr(module, name, layout(weight, bias))
