"""The choice between drafting and plain steps, on machines that the test invents."""

import random

import pytest

from engine.economy import Economy

PLAIN_MS = 5.0


def play(tokens: float, milliseconds: float, num_steps: int = 2000, seed: int = 0) -> float:
    """Time per token under the economy, in plain steps, where a drafting step is as given."""
    rng = random.Random(seed)
    economy = Economy()
    num_tokens, total = 0, 0.0
    for _ in range(num_steps):
        if economy.pays():
            emitted = 1 + sum(rng.random() < (tokens - 1) / 8 for _ in range(8))
            spent = milliseconds * rng.uniform(0.8, 1.2)
        else:
            emitted, spent = 1, PLAIN_MS * rng.uniform(0.8, 1.2)
        economy.observe(emitted, spent)
        num_tokens, total = num_tokens + emitted, total + spent
    return total / num_tokens / PLAIN_MS


@pytest.mark.parametrize(
    ("tokens", "milliseconds"), [(1.0, 15.0), (1.2, 10.0), (2.0, 20.0), (1.5, 9.0)]
)
def test_where_drafting_loses_it_costs_little_more_than_plain(
    tokens: float, milliseconds: float
) -> None:
    assert play(tokens, milliseconds) < 1.12


@pytest.mark.parametrize(("tokens", "milliseconds"), [(3.0, 6.0), (5.0, 10.0), (2.0, 7.0)])
def test_where_drafting_pays_almost_all_of_the_gain_is_had(
    tokens: float, milliseconds: float
) -> None:
    assert play(tokens, milliseconds) < 1.06 * milliseconds / tokens / PLAIN_MS


def test_it_follows_a_change_of_the_text_both_ways() -> None:
    economy = Economy()
    for tokens, expected in ((5, True), (1, False), (5, True)):
        for _ in range(400):
            is_drafting = economy.pays()
            economy.observe(tokens if is_drafting else 1, 9.0 if is_drafting else PLAIN_MS)
        settled = [economy.pays()]
        for _ in range(20):
            economy.observe(tokens if settled[-1] else 1, 9.0 if settled[-1] else PLAIN_MS)
            settled.append(economy.pays())
        assert settled.count(expected) > 14


def test_both_kinds_are_tried_before_either_is_chosen() -> None:
    economy = Economy()
    kinds = []
    for _ in range(10):
        kinds.append(economy.pays())
        economy.observe(2, 8.0)
    assert set(kinds) == {True, False}


def test_reading_a_long_prompt_is_not_held_against_drafting() -> None:
    """The first step that drafts for a text also reads its prompt: dear, and only once."""
    economy = Economy()
    drafted = []
    for _ in range(12):
        economy.start_text()
        has_read = False
        for _ in range(63):
            is_drafting = economy.pays()
            drafted.append(is_drafting)
            reading = 0.0 if has_read else 600.0
            has_read |= is_drafting
            economy.observe(5 if is_drafting else 1, reading + 10.0 if is_drafting else PLAIN_MS)
    assert drafted.count(True) > 0.9 * len(drafted)
