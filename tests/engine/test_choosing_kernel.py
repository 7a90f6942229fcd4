"""Rows that a kernel chooses for in one call get the tokens that they get step by step."""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine import kernels, ranking
from engine.choosing import chooser
from engine.filters import EVERY
from engine.kernels import choosing
from engine.kernels.choosing import Rule
from engine.ranking import choose, rank
from engine.request import SamplingParams
from engine.sampling import Sampling
from tests.engine.sampling_params import random_sampling
from tests.engine.setups import in_float32
from tests.engine.test_choosing import SIZE, WORDS, random_logits, random_place
from tests.engine.test_company import assert_as_alone

pytestmark = pytest.mark.usefixtures("loaded_kernels")

NEVER = -math.inf


class Case(NamedTuple):
    """Logits, the rows that are asked for, and how each of them is sampled where."""

    logits: Tensor
    rows: list[int]
    samplings: list[Sampling]
    positions: list[int]

    def chosen(self) -> list[int]:
        """As the engine does."""
        return choose(self.samplings, self.positions, self.logits, self.rows)

    def step_by_step(self) -> list[int]:
        """Without any kernel, each row by itself."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "is_loaded", lambda: False)
            return [
                rank([sampling], [position], self.logits[row : row + 1]).best()[0]
                for sampling, position, row in zip(
                    self.samplings, self.positions, self.rows, strict=True
                )
            ]


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.02, 0.7, 1.0, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 0, 1, 4, 50, 2500, 10_000]),
        top_p=rng.choice([1.0, 1.0, 0.999, 0.95, 0.6, 0.0]),
        min_p=rng.choice([0.0, 0.0, 0.001, 0.05, 1.0]),
        seed=rng.getrandbits(64) - 2**63,
    )


def case_of(seed: int) -> Case:
    """Flat and steep rows, short and long, with many ties, with tokens of no chance."""
    rng = random.Random(seed)
    size, num_rows = rng.choice([1, 3, 7, 63, 300, 3000, 9001]), rng.randrange(1, 7)
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    logits = torch.randn(num_rows, size, generator=generator) * rng.choice([0.0, 0.3, 2, 8, 60])
    if rng.random() < 0.4:
        logits = logits.round()
    if rng.random() < 0.3 and size > 3:
        logits[:, rng.randrange(3) :: rng.choice([2, 3, 50])] = NEVER
    vocab_size = max(1, size - rng.randrange(3))
    rows = [rng.randrange(num_rows) for _ in range(rng.randrange(1, 5))]
    samplings = [Sampling(random_params(rng), vocab_size) for _ in rows]
    dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16])
    return Case(logits.to(dtype), rows, samplings, [rng.randrange(1 << 20) for _ in rows])


@given(st.integers(0, 1 << 30))
def test_the_kernel_chooses_what_is_chosen_step_by_step(seed: int) -> None:
    """Red when a filter, a tie, the search, the noise, or whose row is whose is another there."""
    case = case_of(seed)
    assert case.chosen() == case.step_by_step()


@pytest.mark.parametrize("value", [math.nan, math.inf, NEVER])
@given(st.integers(0, 1 << 30))
def test_rows_of_a_broken_network_get_some_token(value: float, seed: int) -> None:
    """Of whatever tokens it says that; of those that are no number, where there are any, one."""
    case = case_of(seed)
    case.logits[:, :: 1 + seed % 3] = value
    vocab_size = case.samplings[0].vocab_size
    for token, row in zip(case.chosen(), case.rows, strict=True):
        assert 0 <= token < vocab_size
        assert math.isnan(case.logits[row, token]) == math.isnan(value)


@given(st.integers(0, 100_000))
def test_edited_rows_too_and_those_that_ask_for_more_than_it_knows(seed: int) -> None:
    """Red when edits are left out, or made of the row of another node."""
    rng = random.Random(seed)
    text, tree, _ = random_place(rng, random_sampling(rng, SIZE, WORDS))
    logits, nodes = random_logits(rng, len(tree)), range(len(tree))
    found = chooser([text], tree, logits)(nodes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "is_loaded", lambda: False)
        assert found == chooser([text], tree, logits)(nodes)


@in_float32
def test_texts_in_company_are_what_they_are_alone() -> None:
    """With the kernel, at every temperature: red when a row has another text's rule or place."""
    assert assert_as_alone("draft over ngram", seed=8) > 1


def test_what_is_left_is_drawn_as_often_as_it_is_likely() -> None:
    """Red when the skipping of what cannot win skips what could."""
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -4.0, -9.0]])
    expected = logits.softmax(-1)[0].double()
    num_draws = 40_000
    sampling = Sampling(SamplingParams(seed=5), 7)
    drawn = choose([sampling] * num_draws, range(num_draws), logits, [0] * num_draws)
    counts = torch.bincount(torch.tensor(drawn), minlength=7).double()
    chi2 = ((counts - num_draws * expected) ** 2 / (num_draws * expected)).sum()
    assert torch.special.gammaincc(torch.tensor(3.0), chi2.float() / 2) > 1e-4


Told = tuple[Sequence[int], Sequence[int], Sequence[Rule]]


def with_rules(**changes: float) -> Callable[[Told], Told]:
    """Every rule is another one in that."""

    def changed(told: Told) -> Told:
        rows, positions, rules = told
        return rows, positions, [rule._replace(**changes) for rule in rules]  # type: ignore[arg-type]

    return changed


MUTATIONS: dict[str, Callable[[Told], Told]] = {
    "another row": lambda told: ([0] * len(told[0]), *told[1:]),
    "the position of the first": lambda told: (told[0], told[1][:1] * len(told[1]), told[2]),
    "the rule of the first": lambda told: (*told[:2], told[2][:1] * len(told[2])),
    "no top-k": with_rules(top_k=EVERY),
    "no top-p": with_rules(top_p=math.inf),
    "no min-p": with_rules(min_p=NEVER),
    "another seed": with_rules(seed=1),
    "no temperature": with_rules(temperature=1.0),
}


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_what_the_kernel_is_told_wrongly_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, change = choosing.choose, MUTATIONS[name]

    def told_wrongly(
        logits: Tensor,
        vocab_size: int,
        rows: Sequence[int],
        positions: Sequence[int],
        rules: Sequence[Rule],
    ) -> list[int]:
        return original(logits, vocab_size, *change((rows, positions, rules)))

    monkeypatch.setattr(ranking.choosing, "choose", told_wrongly)
    differs = (case_of(seed).chosen() != case_of(seed).step_by_step() for seed in range(300))
    assert any(differs), "the mutation went unnoticed"
