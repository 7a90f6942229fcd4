"""Counter-based Gumbel noise: a pure function of (seed, position, token id), with no state.

The bits are Philox-4x64-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC
2011) under the key (seed, 0): word `x % 4` of the block at counter (1 + x // 4, position, 0, 0)
belongs to token id x. They are made on the host, so that every device sees the same ones. The block
at counter (0, position, 0, 0) belongs to no token: its first word is a position's own draw.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine import kernels
from engine.kernels import choosing

Tokens = NDArray[np.intp]

_WORD = (1 << 64) - 1
_KEPT_POSITIONS = 128
_MANY = 2000
"""So many logarithms are worth a call of torch."""


class RandomBits:
    """The random bits of one seed, an integer that is taken modulo 2**64.

    One generator serves all positions, since making one takes longer than a thousand words do.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=np.array([seed & _WORD, 0], dtype=np.uint64))
        self._start = self._generator.state

    def row(self, position: int, vocab_size: int) -> NDArray[np.uint64]:
        """64 bits for every token id below `vocab_size`, whatever was asked for before."""
        self._start["state"]["counter"][:] = 0, position, 0, 0
        self._generator.state = self._start
        return self._generator.random_raw(vocab_size)

    def word(self, position: int) -> int:
        """64 bits that belong to a position and to none of its tokens."""
        before = (position << 64) - 1  # the generator counts up before it makes a block
        self._start["state"]["counter"][:] = [before >> bits & _WORD for bits in (0, 64, 128, 192)]
        self._generator.state = self._start
        return int(self._generator.random_raw())


def as_int64(seed: int) -> int:
    """The 64 bits of a seed as a tensor of int64 has them."""
    word = seed & _WORD
    return word - (1 << 64) if word >> 63 else word


def gumbel(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Standard Gumbel variates, float32, from 64-bit words.

    Of each word the upper 52 bits make v, uniform in (0, 1) and never 0 or 1; with u = 1 - v,
    -log(-log(u)) is -log(-log1p(-v)), which stays exact in the tail where u is close to 1. It lies
    between -3.7 and 36.8.
    """
    v = (bits >> np.uint64(12)).astype(np.float64)
    v += 0.5
    v *= -(2.0**-52)
    # numpy is the sooner called and torch the faster; in float32 their logarithms are the same.
    library, noise = (np, v) if v.size < _MANY else (torch, torch.from_numpy(v))
    library.log1p(noise, out=noise)
    library.negative(noise, out=noise)
    library.log(noise, out=noise)
    np.negative(v, out=v)
    return v.astype(np.float32)


class NoiseRows:
    """The noise of one request: a variate for each position and each of `vocab_size` tokens.

    Every node of a depth and every stage reads the same one, which is what makes a draft tend to
    choose the target's token. What was made for the last hundred positions is kept.
    """

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.vocab_size = vocab_size
        source = RandomBits(seed)
        bits = lru_cache(_KEPT_POSITIONS)(partial(source.row, vocab_size=vocab_size))

        @lru_cache(_KEPT_POSITIONS)
        def row(position: int) -> Tensor:
            return torch.from_numpy(gumbel(bits(position))).to(device)

        # Neither knows this object, so they go with it.
        self._bits, self._row, self._word = bits, row, source.word

    def forget(self) -> None:
        """Keep nothing of what was made; it is made again when it is asked for."""
        self._bits.cache_clear()
        self._row.cache_clear()

    def row(self, position: int) -> Tensor:
        """The noise of one position: float32, shape (vocab_size,)."""
        return self._row(position)

    def bits(self, position: int) -> NDArray[np.uint64]:
        """The 64 bits of every token at one position, of which `gumbel` makes its noise."""
        return self._bits(position)

    def bits_of(self, position: int, tokens: Sequence[int] | Tokens) -> NDArray[np.uint64]:
        """Those of a few tokens alone, in their order."""
        if 4 * len(tokens) > self.vocab_size or not kernels.is_loaded():
            return self.bits(position).take(tokens)
        ids = torch.as_tensor(tokens, dtype=torch.int64)
        return choosing.random_bits(as_int64(self.seed), position, ids).numpy().view(np.uint64)

    def draw(self, position: int) -> float:
        """A number of [0, 1) that belongs to a position, and to none of its tokens' noise."""
        return (self._word(position) >> 11) * 2.0**-53


def noise_rows(sources: Sequence[NoiseRows], positions: Sequence[int]) -> Tensor:
    """The noise of all tokens: float32, (rows, vocab_size).

    Row i is that of `sources[i]` at `positions[i]`.
    """
    pairs = zip(sources, positions, strict=True)
    return torch.stack([source.row(position) for source, position in pairs])


def noise_values(
    sources: Sequence[NoiseRows],
    positions: Sequence[int],
    token_ids: Sequence[Sequence[int] | Tokens],
) -> NDArray[np.float32]:
    """The noise of a few tokens in each of such rows, one list after the other.

    On the host; no whole row is made, since the logarithms are the greater part of its cost.
    """
    rows = zip(sources, positions, token_ids, strict=True)
    return gumbel(np.concatenate([source.bits_of(place, tokens) for source, place, tokens in rows]))


def noise_of(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """The noise of some tokens (rows, tokens) at the position of each row (rows,): float32.

    All int64 on the host, like `seeds`, (rows,) or one for all, which are taken modulo 2**64. What
    a kernel does on a GPU (`kernels.triton_noise`), as its arguments are.
    """
    size = int(tokens.max()) + 1
    seeds = seeds.expand(len(positions))
    places = zip(seeds.tolist(), positions.tolist(), tokens.tolist(), strict=True)
    words = [RandomBits(seed).row(place, size).take(ids) for seed, place, ids in places]
    return torch.from_numpy(gumbel(np.stack(words)))
