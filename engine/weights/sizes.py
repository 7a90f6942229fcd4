"""What a network's weights take, and what of them a pass reads."""

from torch import Tensor, nn

from engine.weights.integers import IntegerEmbedding
from engine.weights.packed import PackedLinear


def num_weights(network: nn.Module) -> int:
    """How many weights there are, in whatever they are kept."""
    packed = (each.in_features * each.out_features for each in _packed(network))
    return sum(each.numel() for each in _plain(network)) + sum(packed)


def bytes_loaded(network: nn.Module) -> int:
    """What all weights take as they are loaded, before they are laid out."""
    layers = _packed(network)
    packed = (each.in_features * each.out_features * each.dtype.itemsize for each in layers)
    return sum(each.nbytes for each in _plain(network)) + sum(packed)


def _plain(network: nn.Module) -> list[Tensor]:
    """All but those of packed layers: numbers, or an embedding's codes, unless it scores, too."""
    embeddings = [each for each in network.modules() if isinstance(each, IntegerEmbedding)]
    return [*network.parameters(), *(each.values for each in embeddings if not each.is_tied)]


def _packed(network: nn.Module) -> list[PackedLinear]:
    return [each for each in network.modules() if isinstance(each, PackedLinear)]


def bytes_read(network: nn.Module) -> int:
    """What a pass reads: every weight but the embeddings, whose rows are few."""
    return sum(map(_bytes_read, network.modules()))


def _bytes_read(module: nn.Module) -> int:
    """Of a module's own weights, of an embedding but a row for each token."""
    if isinstance(module, nn.Embedding):
        return 0
    packed = module.num_bytes if isinstance(module, PackedLinear) else 0
    return packed + sum(weight.nbytes for weight in module.parameters(recurse=False))
