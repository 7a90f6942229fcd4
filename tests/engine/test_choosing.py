"""The door for choosing, against a plain reading of its documentation, for rows of any texts."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine import edits
from engine.candidates import Candidates
from engine.choosing import Place, candidates, chooser, places, scores_of
from engine.noise import noise_values
from engine.ranking import rank
from engine.request import GenerateRequest, SamplingParams
from engine.text import Text
from engine.tree import TokenTree
from tests.engine import plain_choosing
from tests.engine.sampling_params import random_sampling

SIZE = 40
WORDS = (3, 4, 5, 6)
"""What most of these texts consist of, so that they repeat themselves."""


def text_of(
    params: SamplingParams,
    prompt: Sequence[int],
    reply: Sequence[int] = (),
    stop_ids: Sequence[int] = (),
    size: int = SIZE,
) -> Text:
    request = GenerateRequest("r", tuple(prompt), 100, params, tuple(stop_ids))
    text = Text.of(request, (), size, "cpu")
    text.tokens += reply
    return text


def random_words(rng: random.Random, least: int, most: int) -> list[int]:
    """Words, and now and then another token."""
    count = rng.randrange(least, most)
    return [rng.choice(WORDS) if rng.random() < 0.9 else rng.randrange(SIZE) for _ in range(count)]


def random_place(rng: random.Random, params: SamplingParams) -> Place:
    """After some node of a small tree on a text."""
    prompt, reply = random_words(rng, 1, 12), random_words(rng, 0, 12)
    text = text_of(params, prompt, reply, rng.sample(range(SIZE), 3))
    tree = TokenTree(text.tokens[-1])
    for _ in range(rng.randrange(7)):
        tree.add(rng.randrange(len(tree)), rng.choice(WORDS))
    return Place(text, tree, rng.randrange(len(tree)))


def random_logits(rng: random.Random, num_rows: int, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    return torch.randn(num_rows, size, generator=generator) * rng.choice([0.3, 2.0, 8.0])


def said(found: Candidates, size: int = SIZE) -> Tensor:
    """The log probabilities of all tokens."""
    return found.normalised().whole(size)


def plain_scores(place: Place, row: Sequence[float]) -> list[float]:
    """The scores at a place as they are documented."""
    text, params = place.text, place.text.sampling.params
    num_prompt = len(text.request.prompt)
    reply = [*text.tokens[num_prompt:], *place.tree.path_tokens(place.node)]
    stop_ids = sorted(text.stop_ids)
    row = plain_choosing.edited(row, params, text.tokens[:num_prompt], reply, stop_ids)
    if params.is_greedy:
        return list(row)
    source = text.sampling.noise
    is_excluding = source.draw(place.position) < params.xtc_probability
    row = plain_choosing.filtered(row, params, is_excluding)
    noise = noise_values([source], [place.position], [range(SIZE)]).tolist()
    return [x + g for x, g in zip(row, noise, strict=True)]


@given(st.integers(0, 100_000))
def test_every_row_is_edited_and_filtered_as_documented(seed: int) -> None:
    """Red when an edit, a filter, their order, or what is known of a node's path is another."""
    rng = random.Random(seed)
    place = random_place(rng, random_sampling(rng, SIZE, WORDS))
    logits = random_logits(rng, 1)
    wanted = torch.tensor(plain_scores(place, logits[0].tolist()))
    found = candidates([place], logits)
    scores = found.whole(SIZE)[0]
    # Shares may be rounded to either side of a cut; so few that a cut elsewhere would be seen.
    differs = (scores > -math.inf) != (wanted > -math.inf)
    assert differs.sum() <= 1
    both = (scores > -math.inf) & (wanted > -math.inf)
    assert torch.allclose(scores[both], wanted[both], atol=1e-3, rtol=1e-4)
    if not differs.any():
        assert scores[found.best()[0]].item() == pytest.approx(wanted.max().item(), abs=1e-3)


@given(st.integers(0, 100_000))
def test_rows_of_different_texts_are_each_as_if_alone(seed: int) -> None:
    """Red when a row has the parameters, the seed, the path or the position of another row, or is
    looked at less far because of it.
    """
    rng = random.Random(seed)
    asked = [
        random_place(rng, random_sampling(rng, SIZE, WORDS)) for _ in range(rng.randrange(2, 6))
    ]
    asked.append(Place(asked[0].text, asked[0].tree, 0))
    rng.shuffle(asked)
    logits = random_logits(rng, len(asked))
    together = candidates(asked, logits)
    alone = [candidates([place], logits[row : row + 1]) for row, place in enumerate(asked)]
    assert together.best() == [found.best()[0] for found in alone]
    wanted = torch.cat([said(found) for found in alone])
    assert torch.equal(said(together) > -math.inf, wanted > -math.inf)
    assert torch.allclose(said(together), wanted, atol=1e-5)


@given(st.integers(0, 100_000))
def test_the_target_chooses_node_by_node_what_it_chooses_for_all_at_once(seed: int) -> None:
    """Red when a CPU reads another row than the node's, or an edit stays in the logits."""
    rng = random.Random(seed)
    text, tree, _ = random_place(rng, random_sampling(rng, SIZE, WORDS))
    logits = random_logits(rng, len(tree))
    before = logits.clone()
    at_once = candidates(places([text], tree, range(len(tree))), logits).best()
    assert [chooser([text], tree, logits)([node])[0] for node in range(len(tree))] == at_once
    assert torch.equal(logits, before)


@given(st.integers(0, 100_000))
def test_a_text_that_has_grown_is_as_one_that_began_so_long(seed: int) -> None:
    """Red when what was counted of a text is not what it has become, or a path stays counted."""
    rng = random.Random(seed)
    place = random_place(rng, random_sampling(rng, SIZE, WORDS, share_edited=1.0))
    logits = random_logits(rng, 1)
    candidates([place], logits)
    text = place.text
    text.tokens += random_words(rng, 1, 9)
    num_prompt = len(text.request.prompt)
    reply = text.tokens[num_prompt:]
    again = text_of(text.sampling.params, text.tokens[:num_prompt], reply, sorted(text.stop_ids))
    tree = TokenTree(text.tokens[-1])
    grown, begun = (candidates([Place(each, tree, 0)], logits) for each in (text, again))
    assert torch.equal(said(grown), said(begun))


def test_a_narrow_draft_is_edited_as_far_as_it_goes() -> None:
    """Red when an id that a draft's vocabulary lacks is another row's token."""
    params = SamplingParams(0.0, logit_bias=((39, 50.0), (2, 30.0)), presence_penalty=2.0)
    text = text_of(params, [1], [39, 5])
    logits = torch.zeros(2, 30)
    found = candidates(places([text], TokenTree(5), [0]) * 2, logits)
    wanted = torch.zeros(2, 30)
    wanted[:, 2], wanted[:, 5] = 30.0, -2.0
    assert torch.equal(found.scores, wanted)


def test_the_columns_behind_a_vocabulary_are_no_tokens() -> None:
    """Red when padding counts for an edit or is chosen."""
    text = text_of(SamplingParams(0.0, allowed_token_ids=(7, 8)), [1])
    logits = torch.zeros(1, SIZE + 9)
    logits[0, SIZE:] = 5.0
    assert candidates(places([text], TokenTree(1), [0]), logits).best() == [7]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_words_and_min_tokens_give_way_where_no_token_would_be_left(
    temperature: float,
) -> None:
    """Red when a text has nothing to say, or says what was not allowed."""
    params = SamplingParams(
        temperature, allowed_token_ids=(7, 8), bad_words=((7,),), min_tokens=9, seed=4
    )
    text = text_of(params, [1], stop_ids=[8])
    logits = torch.zeros(1, SIZE)
    assert candidates(places([text], TokenTree(1), [0]), logits).best()[0] in (7, 8)
    text = text_of(replace(params, bad_words=()), [1], stop_ids=[8])
    assert candidates(places([text], TokenTree(1), [0]), logits).best() == [7]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_few_tokens_have_the_scores_that_they_have_among_all(temperature: float) -> None:
    """Red when a table's tokens are edited or perturbed by another place than the row's."""
    rng = random.Random(4)
    for _ in range(30):
        params = random_sampling(rng, SIZE, WORDS)
        place = random_place(rng, SamplingParams(temperature, logit_bias=params.logit_bias, seed=9))
        row = random_logits(rng, 1).log_softmax(-1)
        tokens = rng.sample(range(SIZE), 6)
        few = scores_of(place, tokens, row[0, tokens].tolist())
        assert few == pytest.approx(candidates([place], row).of([0] * 6, tokens), abs=1e-4)


def test_samples_follow_the_edited_and_filtered_softmax() -> None:
    """Red when XTC's draw has to do with a token's noise, or a filter with either."""
    params = SamplingParams(
        temperature=1.3,
        top_k=6,
        typical_p=0.95,
        xtc_probability=0.4,
        xtc_threshold=0.15,
        presence_penalty=1.0,
        logit_bias=((3, 1.5),),
    )
    row = [2.0, 1.0, 0.5, 0.0, -1.0, -4.0, 1.5]
    edited = plain_choosing.edited(row, params, [5], [0])
    shares = [
        torch.tensor(plain_choosing.softmax(plain_choosing.filtered(edited, params, is_excluding)))
        for is_excluding in (False, True)
    ]
    expected = 0.6 * shares[0] + 0.4 * shares[1]
    num_draws = 20_000
    text, tree = text_of(params, [5], [0], size=7), TokenTree(0)
    sampling = text.sampling
    logits = edits.edited(torch.tensor([row]), [Place(text, tree, 0).edited_row])
    drawn = rank([sampling] * num_draws, range(num_draws), logits.expand(num_draws, -1)).best()
    counts = torch.bincount(torch.tensor(drawn), minlength=7)
    kept = expected > 0
    assert counts[~kept].sum() == 0 and (shares[0] - shares[1]).abs().max() > 0.1
    wanted = num_draws * expected[kept]
    chi2 = ((counts[kept] - wanted) ** 2 / wanted).sum()
    degrees = int(kept.sum()) - 1
    assert torch.special.gammaincc(torch.tensor(degrees / 2), chi2 / 2) > 1e-4


@pytest.mark.gpu
def test_a_gpu_chooses_what_the_host_chooses() -> None:
    """Red when an edit, a filter or the noise of a row is another where the logits are."""
    rng = random.Random(6)
    for _ in range(100):
        text, tree, _ = random_place(rng, random_sampling(rng, SIZE, WORDS))
        there = Text.of(text.request, (), SIZE, "cuda")
        there.tokens[:] = text.tokens
        logits = random_logits(rng, len(tree))
        nodes = range(len(tree))
        host = candidates(places([text], tree, nodes), logits).best()
        assert candidates(places(there, tree, nodes), logits.cuda()).best() == host
