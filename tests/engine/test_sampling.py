"""Filters against a plain reading of their definitions, and the sampler's exactness."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.request import SamplingParams
from engine.sampling import Sampler, filter_logits

logit_rows = st.lists(
    st.floats(-8, 8, width=32).map(lambda x: round(x, 3)), min_size=3, max_size=20, unique=True
)


def survivors(logits: list[float], params: SamplingParams) -> set[int]:
    kept = filter_logits(torch.tensor([logits]), params)[0]
    return {i for i, value in enumerate(kept.tolist()) if value > -math.inf}


@given(logit_rows, st.integers(1, 25))
def test_top_k_keeps_the_k_best(logits: list[float], k: int) -> None:
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
    assert survivors(logits, SamplingParams(top_k=k)) == set(ranked[:k])


@given(logit_rows, st.floats(0.05, 0.999), st.floats(0.3, 2.0))
def test_top_p_keeps_the_fewest_whose_mass_reaches_p(
    logits: list[float], p: float, temperature: float
) -> None:
    weights = [math.exp(x / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
    kept, mass = set[int](), 0.0
    for token in ranked:
        if abs(mass - p) < 1e-4:
            return  # too close to the cut for float32 to say
        if mass >= p:
            break
        kept.add(token)
        mass += weights[token] / sum(weights)
    assert survivors(logits, SamplingParams(temperature=temperature, top_p=p)) == kept


@given(logit_rows, st.floats(0.01, 0.9))
def test_min_p_keeps_what_is_at_least_that_share_of_the_best(
    logits: list[float], min_p: float
) -> None:
    ratios = [math.exp(x - max(logits)) for x in logits]
    if any(abs(ratio - min_p) < 1e-5 for ratio in ratios):
        return
    expected = {i for i, ratio in enumerate(ratios) if ratio >= min_p}
    assert survivors(logits, SamplingParams(min_p=min_p)) == expected


@given(logit_rows)
def test_something_always_survives_the_harshest_filters(logits: list[float]) -> None:
    params = SamplingParams(temperature=0.1, top_k=1, top_p=0.001, min_p=1.0)
    assert survivors(logits, params) == {logits.index(max(logits))}


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_greedy_takes_the_best_whatever_the_seed(temperature: float) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(SamplingParams(temperature=temperature, seed=3), 50)
    assert sampler.choose(logits, range(5)) == logits.argmax(-1).tolist()


def test_the_token_depends_on_seed_position_and_logits_alone() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(SamplingParams(seed=3), 50)
    together = sampler.choose(logits, [7, 9, 9, 8])
    again = Sampler(SamplingParams(seed=3), 50)
    assert [again.choose(logits[i : i + 1], [p])[0] for i, p in [(3, 8), (0, 7)]] == [
        together[3],
        together[0],
    ]
    other_seed = Sampler(SamplingParams(seed=4), 50)
    flat = torch.zeros(40, 50)
    assert sampler.choose(flat, range(40)) != other_seed.choose(flat, range(40))
    assert len(set(sampler.choose(flat, range(40)))) > 10


def test_samples_follow_the_filtered_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -4.0]])
    params = SamplingParams(temperature=1.3, top_k=5, top_p=0.95)
    expected = filter_logits(logits, params).softmax(-1)[0].double()
    num_draws = 40_000
    rows = logits.expand(num_draws, -1)
    drawn = torch.tensor(Sampler(params, 6).choose(rows, range(num_draws)))
    counts = torch.bincount(drawn, minlength=6).double()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi2 = ((counts - num_draws * expected)[kept] ** 2 / (num_draws * expected[kept])).sum()
    degrees = int(kept.sum()) - 1
    assert torch.special.gammaincc(torch.tensor(degrees / 2), chi2.float() / 2) > 1e-4
