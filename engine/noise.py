"""Counter-based Gumbel noise: a pure function of (seed, position, token id), with no state.

The bits are Philox-4x64-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC
2011) under the key (seed, 0): word `x % 4` of the block at counter (1 + x // 4, position, 0, 0)
belongs to token id x. They are made on the host, so that every device sees the same ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WORD = (1 << 64) - 1
_RING = 256


def random_bits(seed: int, position: int, vocab_size: int) -> NDArray[np.uint64]:
    """64 random bits for every token id below `vocab_size`; `seed` is taken modulo 2**64."""
    key = np.array([seed & _WORD, 0], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(vocab_size)


def gumbel(bits: NDArray[np.uint64]) -> Tensor:
    """Standard Gumbel variates, float32, from 64-bit words.

    Of each word the upper 52 bits make v, uniform in (0, 1) and never 0 or 1; with u = 1 - v,
    -log(-log(u)) is -log(-log1p(-v)), which stays exact in the tail where u is close to 1. It lies
    between -3.7 and 36.8.
    """
    v = (bits >> np.uint64(12)).astype(np.float64)
    v += 0.5
    v *= -(2.0**-52)
    noise = -np.log(-np.log1p(v))
    return torch.from_numpy(noise.astype(np.float32))


class NoiseRows:
    """The noise of one request: a row of `vocab_size` variates for each position, made once.

    Every node of a depth and every stage reads the same row, which is what makes a draft tend to
    choose the target's token. Rows of the last few hundred positions are kept.
    """

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.vocab_size = vocab_size
        self._device = device
        self._rows: dict[int, Tensor] = {}

    def row(self, position: int) -> Tensor:
        """The noise of one position: float32, shape (vocab_size,)."""
        row = self._rows.get(position)
        if row is None:
            if len(self._rows) >= _RING:
                del self._rows[next(iter(self._rows))]
            row = gumbel(random_bits(self.seed, position, self.vocab_size)).to(self._device)
            self._rows[position] = row
        return row

    def rows(self, positions: Sequence[int]) -> Tensor:
        """The noise of several positions: float32, shape (len(positions), vocab_size)."""
        return torch.stack([self.row(position) for position in positions])

    def values(self, position: int, token_ids: Sequence[int]) -> list[float]:
        """The noise of a few token ids at one position."""
        row = self.row(position)
        if row.device.type == "cpu":
            host = row.numpy()
            return [float(host[token_id]) for token_id in token_ids]
        values: list[float] = row[list(token_ids)].tolist()
        return values
