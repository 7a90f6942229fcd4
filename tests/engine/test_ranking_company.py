"""Rows of several texts in one call are ranked as each is alone, over a vocabulary of true size."""

import itertools
import random

import pytest
import torch

from engine.ranking import rank
from engine.request import SamplingParams
from engine.sampling import Sampling

VOCAB_SIZE = 4000
KINDS = {
    "greedy": SamplingParams(0.0),
    "whole": SamplingParams(1.0),
    "top-k": SamplingParams(1.0, top_k=50),
    "top-p": SamplingParams(1.0, top_p=0.9),
    "min-p": SamplingParams(0.7, min_p=0.05),
    "typical": SamplingParams(1.0, typical_p=0.9),
    "typical of top-k": SamplingParams(1.0, top_k=50, typical_p=0.9),
    "sigma": SamplingParams(1.0, top_n_sigma=1.5),
    "xtc": SamplingParams(1.0, top_k=50, xtc_probability=0.9, xtc_threshold=0.02),
}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(KINDS, 2)))
def test_rows_are_ranked_in_company_as_they_are_alone(one: str, other: str) -> None:
    """Red when a filter of one row decides how another's shares are counted."""
    rng = random.Random(f"{one} {other}")
    for case in range(12):
        generator = torch.Generator().manual_seed(case)
        logits = torch.randn(2, VOCAB_SIZE, generator=generator) * 2
        seeds = [rng.getrandbits(60) for _ in range(2)]
        samplings = [
            Sampling(SamplingParams(**{**_fields(KINDS[name]), "seed": seed}), VOCAB_SIZE)
            for name, seed in zip((one, other), seeds, strict=True)
        ]
        positions = [7, 31]
        together = rank(samplings, positions, logits).best()
        alone = [
            rank([sampling], [position], logits[row : row + 1]).best()[0]
            for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True))
        ]
        assert together == alone


def _fields(params: SamplingParams) -> dict[str, object]:
    return {name: getattr(params, name) for name in params.__dataclass_fields__}
