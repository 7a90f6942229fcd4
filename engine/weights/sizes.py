"""What a network's weights take, and what of them a pass reads."""

from torch import nn

from engine.weights.packed import PackedLinear


def bytes_loaded(network: nn.Module) -> int:
    """What all weights take as they are loaded, before they are laid out."""
    layers = [each for each in network.modules() if isinstance(each, PackedLinear)]
    packed = (each.in_features * each.out_features * each.dtype.itemsize for each in layers)
    return sum(weight.nbytes for weight in network.parameters()) + sum(packed)


def bytes_read(network: nn.Module) -> int:
    """What a pass reads: every weight but the embeddings, whose rows are few."""
    return sum(map(_bytes_read, network.modules()))


def _bytes_read(module: nn.Module) -> int:
    """Of a module's own weights, of an embedding but a row for each token."""
    if isinstance(module, nn.Embedding):
        return 0
    packed = module.num_bytes if isinstance(module, PackedLinear) else 0
    return packed + sum(weight.nbytes for weight in module.parameters(recurse=False))
