"""Which layout a network's weights get on this machine."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine.errors import ConfigError
from engine.kernels.dots import Codes
from engine.weights.integers import IntegerEmbedding, IntegerLinear, rounded_matrix
from engine.weights.kernel import (
    BFloat16KernelLinear,
    GpuIntegerLinear,
    IntegerKernelLinear,
    KernelLinear,
)
from engine.weights.library import LibraryLinear
from engine.weights.precision import BITS

_Change = Callable[[nn.Module], nn.Module]
"""From a linear layer to another one, or to itself."""


def lay_out(network: nn.Module, has_kernels: bool) -> None:
    """Lay out every linear layer of a network; again, if there are kernels of ours by now.

    What no layout suits stays as it is, as on a GPU all that is not in integers.
    """
    _change(network, _for_kernels if has_kernels else _for_library)


def quantise(network: nn.Module, name: str) -> None:
    """Round the weights of every linear layer to a precision, one after another, and forget them.

    What embeds tokens and what scores them get 8 bits. Layers that are rounded already stay so, and
    everything else becomes float32. Raises ConfigError for weights that are in no layer of their
    own, as those of experts.
    """
    # Short convolutions are next to nothing, and stay as they are.
    others = [each for each in network.modules() if not isinstance(each, nn.Conv1d)]
    weights = [weight for each in others for weight in each.parameters(recurse=False)]
    if any(weight.dim() > 2 for weight in weights):
        raise ConfigError(
            f"{name} is for linear layers, and {type(network).__name__} keeps the weights of its "
            "experts together: choose bfloat16 or auto.",
            "dtype",
        )
    ends = ends_of(network)
    _change(network, lambda layer: _rounded(layer, 8 if layer in ends else BITS[name], ends))
    for weight in network.parameters():  # and no buffers: scales are of half precision
        weight.data = weight.data.float()


def ends_of(network: nn.Module) -> tuple[object, ...]:
    """What embeds tokens and what scores them, as far as a network has them."""
    if isinstance(network, PreTrainedModel):
        return network.get_input_embeddings(), network.get_output_embeddings()
    return (getattr(network, "lm_head", None),)


@torch.no_grad()
def _change(module: nn.Module, change: _Change) -> None:
    for name, child in module.named_children():
        if (changed := change(child)) is not child:
            setattr(module, name, changed)
        else:
            _change(child, change)


def _for_kernels(layer: nn.Module) -> nn.Module:
    if isinstance(layer, IntegerLinear):
        is_on_cpu = layer.scales.device.type == "cpu"
        return IntegerKernelLinear(layer) if is_on_cpu else GpuIntegerLinear(layer)
    if type(layer) in (nn.Linear, Conv1D, LibraryLinear):
        weight = _weight(layer)
        for layout in (BFloat16KernelLinear, KernelLinear):
            if layout.suits(weight):
                return layout(weight, _bias(layer))
    return layer


def _for_library(layer: nn.Module) -> nn.Module:
    if type(layer) in (nn.Linear, Conv1D) and LibraryLinear.suits(_weight(layer)):
        return LibraryLinear(_weight(layer), _bias(layer))
    return layer


def _rounded(layer: nn.Module, bits: int, ends: tuple[object, ...]) -> nn.Module:
    if type(layer) in (nn.Linear, Conv1D):
        weight = _weight(layer)
        return IntegerLinear(_codes(weight, bits), _bias(layer), weight.dtype)
    if layer in ends and (factor := embedding_factor(layer)) is not None:
        weight = cast(Tensor, layer.weight)
        is_tied = any(getattr(end, "weight", None) is weight for end in ends if end is not layer)
        return IntegerEmbedding(_codes(weight.detach(), bits), factor, is_tied)
    return layer


def _codes(weight: Tensor, bits: int) -> Codes:
    return rounded_matrix(weight.__getitem__, tuple(weight.shape), bits)


def embedding_factor(layer: nn.Module) -> float | None:
    """By what an embedding multiplies what it looks up, as Gemma's do; None if it is no embedding.

    What else a class of a library's own does with embeddings nobody can tell from here.
    """
    if type(layer) is nn.Embedding:
        return 1.0
    factor = getattr(layer, "scalar_embed_scale", None)
    return float(factor) if isinstance(layer, nn.Embedding) and factor is not None else None


def _weight(layer: nn.Module) -> Tensor:
    """A layer's weights as (out, in)."""
    weight = cast(Tensor, layer.weight).detach()
    return weight.T.contiguous() if isinstance(layer, Conv1D) else weight


def _bias(layer: nn.Module) -> Tensor | None:
    return cast(Tensor | None, layer.bias)
