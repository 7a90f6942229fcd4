"""Choosing by logits on the host, in whole or in parts; `choosing.cpp` says why it is ours."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

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


class Rule(NamedTuple):
    """How a row's token is chosen where no more is asked for than this.

    `seed` is that of an int64. A `temperature` of 0 takes the best whatever the rest says, and
    what keeps every token is a `top_k` of `filters.EVERY`, a `top_p` of infinity, and minus
    infinity as `min_p`, which is a logarithm.
    """

    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float


def choose(
    logits: Tensor,
    vocab_size: int,
    rows: Sequence[int],
    positions: Sequence[int],
    rules: Sequence[Rule],
) -> list[int]:
    """The token of each of these `rows` of float32 logits (any, vocabulary), at its position.

    Those of `engine.ranking.rank`, of the tokens below `vocab_size`: of equal ones the first.
    """
    chosen = torch.ops.stagetree.choose.default(
        logits, vocab_size, rows, positions, *zip(*rules, strict=True)
    )
    return cast(list[int], chosen)


def candidates(
    logits: Tensor, vocab_size: int, positions: Sequence[int], rules: Sequence[Rule]
) -> tuple[Tensor, Tensor]:
    """What the filters leave of float32 rows (rows, vocabulary), with the noise of their positions.

    Scores and their tokens, (rows, most of any row) each, the likeliest first; minus infinity
    where a row has no more. No rule's `temperature` is 0.
    """
    found = torch.ops.stagetree.candidates.default(
        logits, vocab_size, range(len(rules)), positions, *zip(*rules, strict=True)
    )
    return cast(tuple[Tensor, Tensor], found)


def register() -> None:
    """Nothing to tell torch: no pass that is compiled chooses."""


def check() -> None:
    """Raise ValueError unless all are right, at sizes that leave a rest in every loop."""
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
    _check_choice(torch.randn(len(_CHOICES), 203, generator=generator).mul(3))


_CHOICES = (
    Rule(0, 0.0, 1 << 24, math.inf, -math.inf),
    Rule(3, 1.0, 1 << 24, math.inf, -math.inf),
    Rule(-3, 0.7, 9, math.inf, -math.inf),
    Rule(5, 1.5, 1 << 24, 0.9, -math.inf),
    Rule(7, 1.0, 40, 0.8, -3.0),
)


def _check_choice(logits: Tensor) -> None:
    """Raise ValueError unless rows get the tokens that they should by `_CHOICES`."""
    rows, positions = range(len(logits)), range(5, 5 + len(logits))
    asked = zip(logits.tolist(), _CHOICES, positions, strict=True)
    expected = [_chosen(row, rule, position) for row, rule, position in asked]
    if choose(logits, logits.shape[1], rows, positions, _CHOICES) != expected:
        raise ValueError("tokens are chosen wrongly")


def _chosen(row: Sequence[float], rule: Rule, position: int) -> int:
    """One token by one rule, token by token."""
    if rule.temperature == 0:
        return row.index(max(row))
    order = sorted(range(len(row)), key=lambda token: -row[token])[: rule.top_k]
    scaled = [row[token] / rule.temperature for token in order]
    weights = [math.exp(score - scaled[0]) for score in scaled]
    most = rule.top_p * math.fsum(weights)
    kept = [
        (score + _gumbel(rule.seed, position, token), token)
        for place, (score, token) in enumerate(zip(scaled, order, strict=True))
        if math.fsum(weights[:place]) < most and score >= scaled[0] + rule.min_p
    ]
    return max(kept)[1]


def _gumbel(seed: int, position: int, token: int) -> float:
    bits = int(random_bits(seed, position, torch.tensor([token]))) >> 12 & ((1 << 52) - 1)
    return -math.log(-math.log1p(-(bits + 0.5) * 2.0**-52))
