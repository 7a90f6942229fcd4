"""The door for choosing: rows of different texts in one call are each as if they came alone."""

import math
import random

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.candidates import Candidates
from engine.choosing import Place, candidates, chooser, places
from engine.request import SamplingParams
from engine.sampling import Sampling
from engine.text import Text
from engine.tree import TokenTree

SIZE = 300


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.3, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 1, 40, 400]),
        top_p=rng.choice([1.0, 1.0, 0.9, 0.3]),
        min_p=rng.choice([0.0, 0.0, 0.02]),
        seed=rng.getrandbits(64) - 2**63,
    )


def random_place(rng: random.Random) -> Place:
    """After some node of a small tree on some text of its own parameters."""
    tokens = [rng.randrange(SIZE) for _ in range(rng.randrange(1, 30))]
    tree = TokenTree(tokens[-1])
    for _ in range(rng.randrange(6)):
        tree.add(rng.randrange(len(tree)), rng.randrange(SIZE))
    text = Text(tokens, Sampling(random_params(rng), SIZE))
    return Place(text, tree, rng.randrange(len(tree)))


def random_logits(rng: random.Random, num_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(num_rows, SIZE, generator=generator) * rng.choice([0.3, 2.0, 8.0])


def said(found: Candidates) -> Tensor:
    """The log probabilities of all tokens."""
    return found.normalised().whole(SIZE)


@given(st.integers(0, 10_000))
def test_rows_of_different_texts_are_each_as_if_alone(seed: int) -> None:
    """Red when a row has the parameters, the seed or the position of another row or another text,
    or is looked at less far because of them.
    """
    rng = random.Random(seed)
    asked = [random_place(rng) for _ in range(rng.randrange(2, 6))]
    asked.append(Place(asked[0].text, asked[0].tree, 0))
    rng.shuffle(asked)
    logits = random_logits(rng, len(asked))
    together = candidates(asked, logits)
    alone = [candidates([place], logits[row : row + 1]) for row, place in enumerate(asked)]
    assert together.best() == [found.best()[0] for found in alone]
    wanted = torch.cat([said(found) for found in alone])
    assert torch.equal(said(together) > -math.inf, wanted > -math.inf)
    assert torch.allclose(said(together), wanted, atol=1e-5)


@given(st.integers(0, 10_000))
def test_the_target_chooses_node_by_node_what_it_chooses_for_all_at_once(seed: int) -> None:
    """Red when a CPU reads another row than the node's."""
    rng = random.Random(seed)
    text, tree, _ = random_place(rng)
    logits = random_logits(rng, len(tree))
    at_once = candidates(places(text, tree, range(len(tree))), logits).best()
    assert [chooser(text, tree, logits)(node) for node in range(len(tree))] == at_once
