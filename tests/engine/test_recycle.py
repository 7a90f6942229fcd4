"""What is remembered of scored rows, whose it is, and what of it is claimed."""

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.decoder import Decoder
from engine.drafting import adjacency
from engine.drafting.adjacency import Adjacency
from engine.drafting.lookup import SuffixLookup
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import LookupSource, RecycleSource, Source
from engine.drafting.stage import NoStage, Scored
from engine.economy import Economy, Step
from engine.request import GenerateRequest, Output, SamplingParams
from engine.text import Text
from engine.tree import TokenTree
from tests.checkpoints import VOCAB_SIZE
from tests.engine.setups import model_stage, random_request, recycle, run, target_model, token_ids
from tests.engine.steps import step_of, text_of

tokens = st.integers(0, VOCAB_SIZE - 1)


def salted(ids: list[int], salt: str | None = None, seed: int | None = None) -> Text:
    """A text of one salt; sampled if it has a seed."""
    sampling = SamplingParams(0.0) if seed is None else SamplingParams(1.0, seed=seed)
    text = text_of(ids, sampling)
    text.request = replace(text.request, cache_salt=salt)
    return text


def scored(text: Text, tree: TokenTree | None = None, seed: int = 0) -> Scored:
    """A tree after the text, and random logits of all its nodes."""
    tree = tree or TokenTree(text.tokens[-1])
    logits = torch.randn(len(tree), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    return Scored([text], tree, range(len(tree)), logits)


@given(st.lists(tokens, min_size=1, max_size=4), st.lists(tokens, max_size=5), st.data())
def test_every_row_is_remembered_by_the_two_tokens_before_it(
    ids: list[int], drafted: list[int], data: st.DataObject
) -> None:
    """Red when a node is taken for its sibling's child, or rejected rows are left out."""
    text, tree = salted(ids), TokenTree(ids[-1])
    for token in drafted:
        tree.add(data.draw(st.integers(0, len(tree) - 1)), token)
    rows, memory = scored(text, tree), Adjacency()
    memory.learn(rows)
    tails = [[*ids, *tree.path_tokens(node)] for node in range(len(tree))]
    contexts = {tuple(tail[-size:]): node for node, tail in enumerate(tails) for size in (1, 2)}
    for context, node in contexts.items():
        order, known = memory.after(context, None)
        assert known is not None and order == len(context)
        best = rows.logits[node].log_softmax(-1).topk(8)
        assert list(known.tokens) == best.indices.tolist()
        assert known.logprobs == pytest.approx(best.values.tolist(), abs=1e-5)


def test_after_two_tokens_that_never_met_the_last_one_tells() -> None:
    """Red when a context of one is not kept, or kept for one that begins the text."""
    memory = Adjacency()
    memory.learn(scored(salted([3, 4])))
    assert memory.after([3, 4], None)[0] == 2
    order, known = memory.after([9, 4], None)
    assert order == 1 and known == memory.after([3, 4], None)[1]
    assert memory.after([4, 3], None)[1] is None


def test_memory_is_bounded_and_what_was_learnt_longest_ago_goes_first() -> None:
    """Red when contexts are never forgotten, or the one just learnt again is."""
    memory = Adjacency(capacity=10)
    memory.learn(scored(salted([1, 2])))
    for number in range(3, 40):
        memory.learn(scored(salted([number, number + 1])))
        memory.learn(scored(salted([1, 2])))
    assert len(memory) == 10
    assert memory.after([1, 2], None)[0] == 2
    assert memory.after([39, 40], None)[0] == 2 and memory.after([3, 4], None)[1] is None


def test_logits_that_are_no_numbers_are_not_remembered() -> None:
    memory, rows = Adjacency(), scored(salted([1, 2]))
    rows.logits[0, 3] = math.nan
    memory.learn(rows)
    assert not len(memory)


def grown(drafter: ModelFreeDrafter, text: Text) -> tuple[Step, list[int]]:
    """A step of the text with all that the drafter proposes for it."""
    step = step_of(text)
    return step, drafter.grow(step, [0], 4)


@pytest.mark.parametrize("source", [LookupSource, RecycleSource])
def test_what_is_remembered_of_a_text_serves_texts_of_its_salt_alone(source: object) -> None:
    """Red when a context leaves out whose it is."""
    own: Source = RecycleSource("own", 3) if source is RecycleSource else LookupSource("own")
    drafter = ModelFreeDrafter([own], 4, 3)
    ids = [5, 6, 7, 8, 9]
    for salt in ("mine", "yours", None):
        assert not grown(drafter, salted([5, 6, 7], salt))[1]
        step, _ = grown(drafter, salted(ids, salt))
        drafter.learn(step, scored(salted([1, 7], salt)))
        assert grown(drafter, salted([5, 6, 7], salt))[1]


def test_a_text_of_another_salt_finds_no_rows_and_is_the_same() -> None:
    """Red when the beginning of a prompt is known to whoever sends it, or rows are mixed up."""
    decoder = Decoder(target_model(), recycle())
    prompt = tuple(random.Random(1).randrange(VOCAB_SIZE) for _ in range(40))
    request = GenerateRequest("r", prompt, 12, SamplingParams(0.0), ignore_eos=True)
    told: dict[str | None, list[int]] = {}
    texts = []
    for salt in ("a", "a", "b", "a", None, "b"):
        steps, _ = run(decoder, replace(request, cache_salt=salt))
        told.setdefault(salt, []).append(steps[0].num_cached_tokens)
        texts.append(token_ids(steps))
    assert [cached[0] for cached in told.values()] == [0, 0, 0]
    assert told["a"][1] == len(prompt) - 1
    assert all(text == texts[0] for text in texts)


def test_what_is_recycled_is_ranked_under_the_texts_own_noise() -> None:
    """Over many seeds its first choice follows what was scored, and is not always the same."""
    drafter = recycle(1)
    logits = torch.full((1, VOCAB_SIZE), -20.0)
    logits[0, 3], logits[0, 4] = math.log(2), 0.0
    step, _ = grown(drafter, salted([1, 2]))
    drafter.learn(step, Scored(step.texts, step.tree, [0], logits))
    firsts = []
    for seed in range(300):
        step, nodes = grown(drafter, salted([1, 2], seed=seed))
        firsts.append(step.tree.tokens[nodes[0]])
    assert set(firsts) == {3, 4} and 0.5 < firsts.count(3) / len(firsts) < 0.8


def test_nothing_is_learnt_in_a_step_in_which_it_was_not_asked() -> None:
    """Red when a stage that does not pay goes on to cost what learning costs."""
    drafter, text = recycle(), salted([1, 2])
    step = step_of(text)
    drafter.learn(step, scored(text))
    assert not grown(drafter, text)[1]
    assert step.turns == {}


def test_below_a_draft_it_learns_what_the_draft_says_before_the_target_has_scored() -> None:
    """Red when a stage with a network keeps its rows to itself, or the target's."""
    below = recycle(6)
    drafter, text = model_stage(below, "draft"), text_of([5, 9, 33, 7])
    drafter.grow(step := step_of(text), [0], 8)
    memory = below.sources[0]._adjacency  # type: ignore[attr-defined]
    said = memory.after(text.tokens[-2:], None)[1]
    assert said is not None and step.tree.tokens[1] in said.tokens
    drafter.learn(step, rows := scored(text))
    assert memory.after(text.tokens[-2:], None)[1].tokens[0] == int(rows.logits[0].argmax())


def test_a_token_that_two_sources_name_is_one_node_of_the_first() -> None:
    """It is as sure as the surest; red when the claim of one hides that of the other."""
    drafter, text = recycle(4, LookupSource("look-up")), salted([3, 4, 5, 9, 3, 4, 5])
    step, _ = grown(drafter, text)
    assert step.tree.estimates[step.tree.child(0, 9) or 0] == pytest.approx(math.log(0.5))
    logits = torch.full((1, VOCAB_SIZE), -20.0)
    logits[0, 9], logits[0, 8] = 1.0, 0.0
    drafter.learn(step, Scored([text], TokenTree(5), [0], logits))
    tree = grown(drafter, text)[0].tree
    first, second = tree.child(0, 9), tree.child(0, 8)
    assert first is not None and second is not None
    assert [tree.origins[node] for node in (first, second)] == ["look-up", "recycle"]
    assert tree.estimates[first] > math.log(0.7)


def test_a_look_up_compares_as_many_tokens_as_it_is_told_to() -> None:
    """Red when a match of two is found beside a table, or missed where there is none."""
    ids = [9, 3, 4, 5, 8, 3, 4]
    for min_match, expected in ((2, [5]), (3, [])):
        own = LookupSource("look-up", min_match=min_match)
        step, _ = grown(ModelFreeDrafter([own], 1, 3), salted(ids))
        assert [step.tree.tokens[node] for node in step.tree.children(0)] == expected


@pytest.mark.parametrize("loser", ["look-up", "recycle"])
def test_of_two_sources_that_which_does_not_pay_is_left_out(loser: str) -> None:
    """Red when stages without a network are asked together or not at all."""
    drafter, economy = recycle(4, LookupSource("look-up")), Economy()
    text = text_of([3, 4, 5, 9, 3, 4, 5], num_written=1, speculation="auto")
    step = step_of(text, economy=economy)
    drafter.grow(step, [0], 4)
    drafter.learn(step, scored(text))
    step = step_of(text, economy=economy)
    step.turn(loser).account.saved = -1.0
    assert drafter.grow(step, [0], 4)
    assert loser not in step.tree.origins
    assert step.turn(loser).num_passes == 0


def test_a_guess_is_credited_to_the_source_that_made_it() -> None:
    """Red when the stage above cannot tell two stages below it apart."""
    drafter, text = recycle(8, LookupSource("look-up")), salted([3, 4, 5, 9, 3, 4, 5])
    step, _ = grown(drafter, text)
    drafter.learn(step, scored(text))
    step, guesses = grown(drafter, text)
    names = [step.tree.origins[node] for node in guesses]
    drafter.credit(step, guesses, set(guesses[:1]))
    counts = {name: step.turn(name).num_guesses for name in ("look-up", "recycle")}
    assert counts == Counter(names) and min(counts.values()) > 0
    assert step.turn(names[0]).num_confirmed == 1


def assert_leaks(leak: object) -> None:
    with pytest.raises(AssertionError):
        test_what_is_remembered_of_a_text_serves_texts_of_its_salt_alone(leak)


def test_an_adjacency_that_leaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Adjacency.after
    salts = (None, "mine", "yours")

    def after(self: Adjacency, tail: list[int], salt: str | None) -> object:
        found = [original(self, tail, each) for each in (salt, *salts)]
        return next((each for each in found if each[1] is not None), found[0])

    monkeypatch.setattr(adjacency.Adjacency, "after", after)
    assert_leaks(RecycleSource)


def test_a_look_up_that_leaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SuffixLookup.begin
    monkeypatch.setattr(
        SuffixLookup, "begin", lambda self, tokens, salt=None: original(self, tokens)
    )
    assert_leaks(LookupSource)


def test_rows_of_wrong_nodes_change_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered may be any nonsense: then less is accepted, and the text is the same."""
    original = adjacency._rows
    monkeypatch.setattr(adjacency, "_rows", lambda scored: original(scored)[::-1])
    rng = random.Random(4)
    for _ in range(10):
        decoder, request = Decoder(target_model(), recycle(8)), random_request(rng)
        plain = token_ids(run(Decoder(target_model(), NoStage()), request, "off")[0])
        assert token_ids(run(decoder, request)[0]) == plain


def test_a_warm_memory_is_accepted_more_than_a_cold_one() -> None:
    """Red when what one text taught is lost to the next."""
    decoder = Decoder(target_model(), recycle(6))
    request = GenerateRequest("r", (5, 6, 7), 40, SamplingParams(1.0, seed=3), ignore_eos=True)
    taus = [run(decoder, request)[1].stats.mean_acceptance_length for _ in range(2)]
    assert taus[1] > taus[0]
    assert all(isinstance(step, Output) for step in run(decoder, request)[0])
