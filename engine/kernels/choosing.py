"""A row's likeliest tokens, and random bits of a few; `choosing.cpp` says why they are ours."""

from typing import cast

import numpy as np
import torch
from torch import Tensor


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of float32 rows (rows, vocabulary) and their tokens, in falling order.

    Of equal ones the lower token goes first, and what is no number before all.
    """
    return cast(tuple[Tensor, Tensor], torch.ops.stagetree.likeliest(logits, count))


def random_bits(seed: int, position: int, tokens: Tensor) -> Tensor:
    """The words of these tokens (any shape, int64) at a position, as `engine.noise` has them.

    `seed` is that of an int64; so are the words, whose 64 bits count.
    """
    return cast(Tensor, torch.ops.stagetree.random_bits(seed, position, tokens))


def register() -> None:
    """Nothing to tell torch: no pass that is compiled chooses."""


def check() -> None:
    """Raise ValueError unless both are right, at sizes that leave a rest in every loop."""
    generator = torch.Generator().manual_seed(0)
    for rows, size, count in ((1, 5, 5), (3, 1000, 7), (2, 130, 64)):
        logits = torch.randn(rows, size, generator=generator).mul(9).round()  # some are equal
        order = (-logits).sort(dim=-1, stable=True)
        values, tokens = likeliest(logits, count)
        if not torch.equal(tokens, order.indices[:, :count]):
            raise ValueError(f"the likeliest {count} of {size} tokens are wrong")
        if not torch.equal(values, -order.values[:, :count]):
            raise ValueError(f"the scores of the likeliest {count} of {size} tokens are wrong")
    for seed, position in ((0, 0), (-3, 1 << 20)):
        key = np.array([seed & ((1 << 64) - 1), 0], np.uint64)
        source = np.random.Philox(key=key, counter=[0, position, 0, 0])
        expected = source.random_raw(50).view(np.int64)
        if random_bits(seed, position, torch.arange(50)).numpy().tolist() != expected.tolist():
            raise ValueError("the random bits are not those of their tokens")
