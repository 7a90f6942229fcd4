"""Texts in company are what they are alone: whoever else sits, comes, goes or ends, at any step."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.decoder import Decoder
from engine.parts import Part
from engine.request import Finished, GenerateRequest, Output, Speculation
from engine.rows import Rows, Seated, Tokens
from engine.scorer import TreeScorer
from engine.strips import Strips
from engine.tree import TokenTree
from tests.checkpoints import VOCAB_SIZE, make_model
from tests.engine.sampling_params import random_edits
from tests.engine.setups import (
    NUM_SEATS,
    STAGE_LISTS,
    in_float32,
    random_request,
    run,
    target_model,
    token_ids,
)

pytestmark = in_float32


def requests_of(rng: random.Random, count: int) -> list[GenerateRequest]:
    """Requests of every kind, some of which begin as others do."""
    made: list[GenerateRequest] = []
    for number in range(count):
        request = random_request(rng)
        if made and rng.random() < 0.4:
            begun = rng.choice(made).prompt
            request = replace(request, prompt=(*begun, *begun, *request.prompt)[:60])
        if rng.random() < 0.3:
            edits = random_edits(rng, VOCAB_SIZE, request.prompt)
            sampling = replace(request.sampling, **edits)  # type: ignore[arg-type]
            num_least = min(sampling.min_tokens, request.max_tokens)
            request = replace(request, sampling=replace(sampling, min_tokens=num_least))
        speculation: Speculation = rng.choice(["off", "auto", "always", "always"])
        made.append(replace(request, request_id=str(number), speculation=speculation))
    return made


def play(
    decoder: Decoder, requests: Sequence[GenerateRequest], rng: random.Random
) -> tuple[dict[str, list[int]], set[str], int]:
    """Add requests at random moments, cancel some: texts, those that were cut, texts per step."""
    texts: dict[str, list[int]] = defaultdict(list)
    coming, cut, most = list(requests), set[str](), 0
    while coming or decoder.is_busy:
        while coming and (not decoder.is_busy or rng.random() < 0.4):
            decoder.add(coming.pop(0))
        for event in decoder.step():
            if isinstance(event, Output):
                texts[event.request_id] += [token.token_id for token in event.tokens]
                most = max(most, event.stats.num_texts)
            elif event.reason == "cancelled":
                cut.add(event.request_id)
        if texts and rng.random() < 0.05:
            decoder.cancel(rng.choice(list(texts)))
    return texts, cut, most


def assert_as_alone(stages: str, seed: int = 0, count: int = 14) -> int:
    """Of many requests in company every text is the text alone; how many shared a step."""
    rng = random.Random(f"{stages}{seed}")
    requests = requests_of(rng, count)
    decoder = Decoder(target_model(), STAGE_LISTS[stages](12))
    texts, cut, most = play(decoder, requests, rng)
    alone = Decoder(target_model())
    for request in requests:
        expected = token_ids(run(alone, request, "off")[0])
        got = texts[request.request_id]
        if request.request_id in cut:
            expected = expected[: len(got)]
        assert got == expected, request
    return most


@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_texts_in_company_are_what_they_are_alone(stages: str) -> None:
    """And they did share steps, or it would prove nothing."""
    assert assert_as_alone(stages) == NUM_SEATS


def assert_caught() -> None:
    with pytest.raises(AssertionError):
        for seed in range(6):
            assert_as_alone("draft over ngram", seed)


def test_a_row_that_sees_a_neighbours_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Rows.slots

    def slots(self: Rows, num_rows: int) -> range:
        self.first, first = (0, self.first) if self.seat == 1 else (self.first, self.first)
        found = original(self, num_rows)
        self.first = first
        return found

    monkeypatch.setattr(Rows, "slots", slots)
    assert_caught()


def test_rows_that_are_moved_to_the_wrong_seat_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Rows.commit

    def commit(self: Rows, tree: TokenTree, kept: Sequence[int]) -> tuple[list[int], range]:
        sources, targets = original(self, tree, kept)
        return sources, range(len(targets)) if self.seat else targets

    monkeypatch.setattr(Rows, "commit", commit)
    assert_caught()


def test_a_prefix_copied_one_row_short_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Rows.copy

    def copy(self: Rows, other: Rows, count: int) -> tuple[range, range]:
        sources, targets = original(self, other, count)
        return sources[:-1], targets[:-1]

    monkeypatch.setattr(Rows, "copy", copy)
    assert_caught()


def test_rows_of_the_seats_last_text_that_are_kept_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Rows.known

    def known(self: Rows, text: Seated) -> int:
        return min(original(self, text) + 1, len(self.tokens), len(text.tokens) - 1)

    monkeypatch.setattr(Rows, "known", known)
    assert_caught()


def test_tree_rows_of_a_vacated_seat_that_stay_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As part of the next text's rows, which then lie behind them."""
    original = Rows.commit

    def commit(self: Rows, tree: TokenTree, kept: Sequence[int]) -> tuple[list[int], range]:
        rejected = [node for node in self.nodes if node not in kept]
        places = original(self, tree, kept)
        self.tokens += [tree.tokens[node] for node in rejected[:1]]
        return places

    monkeypatch.setattr(Rows, "commit", commit)
    assert_caught()


def test_a_prompt_sits_where_most_of_it_is_known() -> None:
    """A, B, A: the third is read from where it lay, however many seats there are."""
    model = make_model(num_seats=2, max_model_len=256)
    decoder = Decoder(model)
    long = tuple(range(1, 61))
    cached = []
    for prompt in (long, (7, *long[::-1]), long, (*long, 5)):
        request = GenerateRequest(str(len(cached)), prompt, 2, ignore_eos=True)
        first = next(event for event in decoder.generate(request) if isinstance(event, Output))
        cached.append(first.num_cached_tokens)
    assert cached == [0, 0, 59, 60]


def test_a_beginning_that_all_prompts_share_costs_no_text_its_seat() -> None:
    """Red when prompts that begin alike, as with a template, crowd into one seat."""
    decoder = Decoder(make_model(num_seats=2, max_model_len=256))
    long, other = (9, *range(1, 41)), (9, *range(50, 20, -1))
    cached = []
    for prompt in (long, other, long):
        request = GenerateRequest("r", prompt, 2, ignore_eos=True)
        first = next(event for event in decoder.generate(request) if isinstance(event, Output))
        cached.append(first.num_cached_tokens)
    assert cached == [0, 0, 40]


def test_a_long_prompt_does_not_wait_for_ever_while_short_ones_come() -> None:
    """Red when the shortest goes first, however long the others have waited."""
    decoder = Decoder(make_model(num_seats=3, max_model_len=256))
    decoder.add(GenerateRequest("long", tuple(range(60)) * 3, 2, ignore_eos=True))
    for number in range(100):
        decoder.add(GenerateRequest(str(number), (1, 2, number % 60), 1, ignore_eos=True))
        events = decoder.step()
        if any(event.request_id == "long" for event in events):
            break
    assert number < 60


def test_a_step_that_is_broken_off_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when the next step finds a tree's rows that were never committed."""
    decoder = Decoder(make_model(num_seats=2))
    request = GenerateRequest("r", (1, 2, 3), 12, ignore_eos=True)
    expected = token_ids(run(decoder, request, "off")[0])
    decoder.add(request)
    events = [*decoder.step(), *decoder.step()]
    with monkeypatch.context() as patch:
        patch.setattr(TokenTree, "child", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.step()
    while decoder.is_busy:
        events += decoder.step()
    assert token_ids([event for event in events if isinstance(event, Output)]) == expected


def test_what_a_busy_neighbour_knows_is_copied() -> None:
    model = make_model(num_seats=2, max_model_len=256)
    decoder = Decoder(model)
    long = tuple(range(1, 61))
    decoder.add(GenerateRequest("a", long, 40, ignore_eos=True))
    texts: dict[str, list[int]] = defaultdict(list)
    events = [event for _ in range(8) for event in decoder.step()]
    decoder.add(GenerateRequest("b", (*long, 9), 20, ignore_eos=True))
    while decoder.is_busy:
        events += decoder.step()
    for event in events:
        if isinstance(event, Output):
            if not texts[event.request_id]:
                assert event.num_cached_tokens == (60 if event.request_id == "b" else 0)
            texts[event.request_id] += [token.token_id for token in event.tokens]
    request = GenerateRequest("c", (*long, 9), 20, ignore_eos=True)
    fresh = Decoder(make_model(max_model_len=256))
    assert texts["b"] == token_ids(run(fresh, request, "off")[0])


def test_equal_prompts_that_come_together_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when only what is known as a text comes to sit is copied."""
    model = make_model(num_seats=3, max_model_len=256)
    read: list[int] = []
    feed = TreeScorer._feed

    def counted(self: TreeScorer, parts: Sequence[Part]) -> Tensor:
        read.append(sum(len(part.pending) for part in parts))
        return feed(self, parts)

    monkeypatch.setattr(TreeScorer, "_feed", counted)
    decoder, texts = Decoder(model), defaultdict[str, list[int]](list)
    for name in "abc":
        decoder.add(GenerateRequest(name, (*range(1, 51), *range(1, 51)), 12))
    while decoder.is_busy:
        for event in decoder.step():
            if isinstance(event, Output):
                texts[event.request_id] += [token.token_id for token in event.tokens]
    assert sum(read) == 99
    assert texts["a"] == texts["b"] == texts["c"]


def test_the_times_of_texts_add_up_to_those_of_their_steps() -> None:
    decoder = Decoder(make_model(num_seats=3))
    for number in range(3):
        decoder.add(GenerateRequest(str(number), (1, 2, 3 + number), 8, ignore_eos=True))
    for _ in range(4):
        decoder.step()
    events = [event for event in decoder.step() if isinstance(event, Output)]
    assert len(events) == 3
    assert {event.stats.num_texts for event in events} == {3}
    shares = {event.stats.target_milliseconds for event in events}
    assert max(shares) == pytest.approx(min(shares))


def test_a_request_that_waits_or_is_read_can_be_cancelled() -> None:
    decoder = Decoder(make_model(num_seats=1))
    for name in ("a", "b"):
        decoder.add(GenerateRequest(name, tuple(range(1, 61)), 8, ignore_eos=True))
    decoder.step()
    decoder.cancel("a")
    decoder.cancel("b")
    ended = [event.request_id for event in decoder.step() if isinstance(event, Finished)]
    assert ended == ["a", "b"]
    assert not decoder.is_busy


def test_equal_rows_have_equal_logits_in_any_company() -> None:
    """Whatever else is in the pass: here within rounding; compiled passes hold it to the bit."""
    model = make_model(num_seats=3)
    texts = [Tokens([1, 2, 3, 4], 0), Tokens([9, 8, 7], 1), Tokens([5, 5, 6, 6, 7, 7], 2)]
    alone = []
    for text in texts:
        alone.append(model.score([text], TokenTree(text.tokens[-1])))
        model.strips.rollback()
    together = model.score(texts, TokenTree(*[text.tokens[-1] for text in texts]))
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert together.shape == (3, VOCAB_SIZE)
    assert isinstance(model.strips, Strips)
