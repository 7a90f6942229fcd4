"""Filters against a plain reading of their definitions, and the sampling's exactness."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.candidates import Candidates
from engine.kernels import choosing
from engine.noise import noise_rows
from engine.request import SamplingParams
from engine.sampling import Sampling
from tests.engine.filters import chosen, filter_logits, ranked

logit_rows = st.lists(
    st.floats(-8, 8, width=32).map(lambda x: round(x, 3)), min_size=3, max_size=20, unique=True
)


def survivors(logits: list[float], params: SamplingParams) -> set[int]:
    kept = ranked(Sampling(params, len(logits)), torch.tensor([logits]), [0])
    tokens, scores = kept.top(len(logits))
    return {token for token, score in zip(tokens[0], scores[0], strict=True) if score > -math.inf}


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


class Case(NamedTuple):
    """Rows of logits, how they are sampled, and of how many tokens the target knows."""

    logits: Tensor
    params: SamplingParams
    vocab_size: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Flat and steep rows, short and long, some with many ties, some with tokens of no chance."""
    size = draw(st.sampled_from([3, 60, 300, 3000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = torch.randn(draw(st.integers(1, 4)), size, generator=generator)
    logits *= draw(st.sampled_from([0.0, 0.3, 2.0, 8.0]))
    if draw(st.booleans()):
        logits[:, 1::3] = -math.inf
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.02, 0.7, 1.0, 1.5])),
        top_k=draw(st.sampled_from([0, 0, 1, 4, 50, 2500, 10_000])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.99, 0.6, 0.0])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 1.0])),
        seed=draw(st.integers(0, 2**63)),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return Case(logits.to(dtype), params, size - draw(st.integers(0, 2)))


def dense(candidates: Candidates, size: int) -> Tensor:
    """Scores of all tokens below `size`, -inf for those that are no candidates."""
    if candidates.ids is None:
        return candidates.scores
    scores = torch.full((len(candidates.scores), size), -math.inf)
    return scores.scatter(1, torch.from_numpy(candidates.ids), candidates.scores)


@given(cases())
def test_the_candidates_are_all_that_the_filters_keep_with_the_noise_of_the_whole_row(
    case: Case,
) -> None:
    """Bit for bit, however few tokens were looked at: a narrower search would turn this red."""
    logits, params, size = case
    sampling = Sampling(params, size)
    positions = [5 + row // 2 for row in range(len(logits))]
    expected = filter_logits(logits[:, :size].float(), params) + noise_rows(
        [sampling.noise] * len(positions), positions
    )
    scores = dense(ranked(sampling, logits, positions), size)
    assert torch.equal(scores, expected)
    assert chosen(sampling, logits, positions) == expected.argmax(-1).tolist()


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_the_mass_of_top_p_is_that_of_the_whole_row(spread: float) -> None:
    """Red if it is taken to be that of the tokens which were looked at first."""
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(3)) * spread
    params = SamplingParams(top_p=0.8)
    scores = dense(ranked(Sampling(params, 3000), logits, [0, 0]), 3000)
    assert torch.equal(scores > -math.inf, filter_logits(logits, params) > -math.inf)


@pytest.mark.parametrize("num_ties", [2, 9, 400])
def test_all_that_ties_at_a_cut_stays(num_ties: int) -> None:
    """However many: red if the search ends among them, or if the cut takes the first."""
    logits = torch.zeros(2, 500)
    logits[:, :4] = 3.0
    logits[0, 90 : 90 + num_ties] = 1.0
    sampling = Sampling(SamplingParams(top_k=5), 500)
    is_kept = dense(ranked(sampling, logits, [0, 0]), 500) > -math.inf
    assert is_kept.sum(-1).tolist() == [4 + num_ties, 500]


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=3)])
def test_the_score_of_a_token_is_asked_for_by_name(params: SamplingParams) -> None:
    """A token that the filters drop has none: red if another column is read for it."""
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    candidates = ranked(Sampling(params, 40), logits, [1, 2, 3]).normalised()
    scores = dense(candidates, 40)
    rows, tokens = [2, 0, 0, 2], [39, 0, int(scores[0].argmax()), int(scores[2].argmin())]
    assert candidates.of(rows, tokens) == scores[rows, tokens].tolist()
    assert scores.exp().sum(-1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("num_broken", [1, 60, 100])
def test_logits_that_are_no_numbers_still_give_a_token(value: float, num_broken: int) -> None:
    """As they give some token at temperature 0: an overflow ends no request."""
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(2))
    logits[:, :num_broken] = value
    for temperature in (0.0, 0.5, 1.0):
        for top_k, top_p, min_p in [(0, 1.0, 0.0), (50, 1.0, 0.0), (0, 0.9, 0.0), (9, 0.9, 0.1)]:
            sampling = Sampling(SamplingParams(temperature, top_k, top_p, min_p), 100)
            assert chosen(sampling, logits, [4])[0] in range(100)


@pytest.mark.gpu
def test_a_gpu_chooses_what_the_host_chooses() -> None:
    logits = torch.randn(4, 900, generator=torch.Generator().manual_seed(2)) * 4
    for params in (SamplingParams(), SamplingParams(top_k=50), SamplingParams(min_p=0.01)):
        chosen = [chosen(Sampling(params, 900, d), logits.to(d), range(4)) for d in ("cpu", "cuda")]
        assert chosen[0] == chosen[1]


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_greedy_takes_the_best_whatever_the_seed(temperature: float) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(SamplingParams(temperature=temperature, seed=3), 50)
    assert chosen(sampling, logits, range(5)) == logits.argmax(-1).tolist()


def test_many_ties_at_top_k_count_for_top_p_and_no_other_row_matters() -> None:
    """Red when the mass of top-p is that of the columns looked at; bfloat16 has many ties."""
    params = SamplingParams(top_k=50, top_p=0.9)
    generator = torch.Generator().manual_seed(2)
    logits = (25 + 2.5 * torch.randn(6, 5000, generator=generator)).bfloat16().float()
    logits[0, :300] = logits[0].max() - 1
    expected = (filter_logits(logits, params) > -math.inf).sum(dim=-1).tolist()
    sampling = Sampling(params, 5000)
    together = ranked(sampling, logits, range(6)).scores.numpy() > -math.inf
    assert together.sum(axis=-1).tolist() == expected
    for row, count in enumerate(expected):
        alone = ranked(sampling, logits[row : row + 1], [row]).scores.numpy() > -math.inf
        assert alone.sum() == count


def test_the_token_depends_on_seed_position_and_logits_alone() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(SamplingParams(seed=3), 50)
    together = chosen(sampling, logits, [7, 9, 9, 8])
    again = Sampling(SamplingParams(seed=3), 50)
    assert [chosen(again, logits[i : i + 1], [p])[0] for i, p in [(3, 8), (0, 7)]] == [
        together[3],
        together[0],
    ]
    other_seed = Sampling(SamplingParams(seed=4), 50)
    flat = torch.zeros(40, 50)
    assert chosen(sampling, flat, range(40)) != chosen(other_seed, flat, range(40))
    assert len(set(chosen(sampling, flat, range(40)))) > 10


def test_samples_follow_the_filtered_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -4.0]])
    params = SamplingParams(temperature=1.3, top_k=5, top_p=0.95)
    expected = filter_logits(logits, params).softmax(-1)[0].double()
    num_draws = 40_000
    rows = logits.expand(num_draws, -1)
    drawn = torch.tensor(chosen(Sampling(params, 6), rows, range(num_draws)))
    counts = torch.bincount(drawn, minlength=6).double()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi2 = ((counts - num_draws * expected)[kept] ** 2 / (num_draws * expected[kept])).sum()
    degrees = int(kept.sum()) - 1
    assert torch.special.gammaincc(torch.tensor(degrees / 2), chi2.float() / 2) > 1e-4


@pytest.mark.usefixtures("cache")
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.5, -2.0, 7.0, math.inf, -math.inf, math.nan]),
        min_size=300,
        max_size=400,
    ),
    st.integers(1, 80),
)
def test_the_kernel_finds_the_likeliest_and_of_equal_ones_the_first(
    logits: list[float], count: int
) -> None:
    """Red when a block is passed over that has one of them, or ties are left to chance."""
    rows = torch.tensor([logits, logits[::-1]]).contiguous()
    values, tokens = choosing.likeliest(rows, count)
    for row, found, value in zip(rows.tolist(), tokens.tolist(), values.tolist(), strict=True):
        keys = [(not math.isnan(x), 0.0 if math.isnan(x) else -x, i) for i, x in enumerate(row)]
        assert found == sorted(range(len(row)), key=keys.__getitem__)[:count]
        assert torch.equal(
            torch.tensor(value).nan_to_num(9), torch.tensor(row)[found].nan_to_num(9)
        )
