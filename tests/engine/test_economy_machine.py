"""The loop on invented machines: `auto` finds what pays, and loses little where nothing does.

Time is invented too (`tests/machine.py`), so nothing is timed and every run is the same.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.machine import TARGET_MS, Machine, copied_text, random_text

TEXT = random_text()
UNRELATED: Mapping[str, Any] = {"skills": (0.02,), "claim": 0.9}


def ratio_to_plain(start: int = 40, num_tokens: int = 256, **settings: Any) -> float:
    """How often faster `auto` is than plain decoding, with the learning that it takes."""
    machine = Machine(**settings)
    machine.measure()
    auto = machine.play(num_tokens, start=start)[0]
    return machine.play(num_tokens, "off", start=start)[0] / auto


def fixed_ratio(num_tokens: int = 256, **settings: Any) -> float:
    """The same for sizes that are always used fully."""
    machine = Machine(**settings)
    fixed = machine.play(num_tokens, "always")[0]
    return machine.play(num_tokens, "off")[0] / fixed


@pytest.mark.parametrize("draft_ms", [{1: 0.1, 512: 1.0}, {1: 0.45, 64: 1.0}, TARGET_MS])
@pytest.mark.parametrize("claim", [0.9, 0.3])
def test_a_draft_that_is_never_right_costs_next_to_nothing(
    claim: float, draft_ms: Mapping[int, float]
) -> None:
    settings = {"skills": (0.02,), "claim": claim, "draft_ms": draft_ms}
    assert ratio_to_plain(num_tokens=512, text=TEXT, **settings) > 0.965


def test_in_short_texts_that_nobody_foresees_little_is_lost_to_trying() -> None:
    """Red when every text begins as if nothing had been learnt of those before it."""
    machine = Machine(TEXT, **UNRELATED)
    machine.measure()
    starts = [150 + 97 * number for number in range(30)]
    auto = [machine.play(64, start=start)[0] for start in starts]
    plain = [machine.play(64, "off", start=start)[0] for start in starts]
    assert sum(plain[6:]) / sum(auto[6:]) > 0.98


def test_a_long_prompt_is_not_read_by_a_draft_that_does_not_pay() -> None:
    """After one reply it is known; its trials are worth no reading of thousands of tokens."""
    machine = Machine(TEXT, **UNRELATED)
    machine.measure()
    machine.play(256)
    auto, steps = machine.play(128, start=3000)
    assert machine.play(128, "off", start=3000)[0] / auto > 0.97
    assert not any(s.num_passes for step in steps for s in step.stats.stages if s.name == "draft")


@pytest.mark.parametrize(
    ("skills", "sizes"),
    [
        ((0.9, 0.5, 0.7), {"budget": 8, "passes": 2, "width": 1}),
        ((0.95, 0.85), {"budget": 4, "passes": 4, "width": 1}),
        ((0.3, 0.2), {"budget": 6, "passes": 1, "width": 1}),
    ],
)
def test_it_is_about_as_fast_as_the_best_fixed_sizes(
    skills: tuple[float, ...], sizes: Mapping[str, int]
) -> None:
    """The sizes are the best of a sweep on this machine: another one for every skill."""
    best = fixed_ratio(text=TEXT, skills=skills, guesses=4, **sizes)
    assert ratio_to_plain(text=TEXT, skills=skills) > 0.95 * best


def test_for_a_large_target_it_grows_large_trees() -> None:
    target, draft = {1: 30.0, 16: 33.0, 64: 40.0, 512: 200.0}, {1: 1.5, 16: 1.8, 64: 2.5, 512: 9.0}
    machine = Machine(TEXT, target_ms=target, draft_ms=draft)
    machine.measure()
    _, steps = machine.play(128)
    later = steps[5:]
    assert sum(step.stats.num_nodes for step in later) / len(later) > 25


def test_text_that_repeats_itself_is_proposed_in_long_runs_without_a_draft_pass() -> None:
    assert ratio_to_plain(700, text=copied_text()) > 6
    assert ratio_to_plain(700, text=copied_text(), **UNRELATED) > 5


def test_it_follows_a_text_that_changes() -> None:
    """A draft that was useless for hundreds of tokens is used again once it is right."""
    machine = Machine(TEXT, **UNRELATED)
    machine.measure()
    machine.play(400)
    machine.become_skilled((0.9, 0.8))
    machine.play(400, start=700)
    _, steps = machine.play(128, start=1400)
    assert sum(step.stats.num_draft_tokens > 0 for step in steps) > 0.8 * len(steps)


def test_what_it_expects_is_what_happens() -> None:
    machine = Machine(TEXT)
    machine.measure()
    machine.play(256)
    _, steps = machine.play(256, start=400)
    emitted = sum(step.stats.num_accepted_drafts + 1 for step in steps)
    assert sum(step.stats.expected_tokens for step in steps) == pytest.approx(emitted, rel=0.1)
    took = sum(step.stats.milliseconds for step in steps[1:])
    expected = sum(step.stats.expected_milliseconds for step in steps[1:])
    assert expected == pytest.approx(took, rel=0.1)


def test_always_uses_its_sizes_fully_whatever_they_cost() -> None:
    machine = Machine(TEXT, **UNRELATED, budget=12, passes=3, width=2, has_ngram=False)
    machine.measure()
    machine.play(128)
    _, steps = machine.play(128, "always", start=300)
    for step in steps[1:100]:
        assert step.stats.num_nodes == 13
        assert step.stats.stages[0].num_passes == 3
