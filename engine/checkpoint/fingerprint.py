"""What weights a network has, told in a few letters."""

import hashlib

from torch import nn

_CODES = ("values", "pairs", "scales", "minima")
"""Of weights that were rounded as they were read."""


def fingerprint(network: nn.Module, merged: str = "", num_sampled: int = 64) -> str:
    """A digest of samples of all weights, by name: another training has another.

    What was `merged` into them is in it: of codes, samples may not tell.
    """
    digest = hashlib.sha256(merged.encode())
    buffers = network.named_buffers()
    codes = [(name, part) for name, part in buffers if name.rpartition(".")[2] in _CODES]
    for name, weights in (*network.named_parameters(), *codes):
        flat = weights.detach().reshape(-1)
        sampled = flat[:: max(1, len(flat) // num_sampled)].float().cpu()
        digest.update(f"{name} {list(weights.shape)}".encode())
        digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()[:16]
