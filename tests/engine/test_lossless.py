"""Speculation never changes the text: equality in float32, over every stage list."""

import random
from collections import Counter

import pytest

from engine.decoder import Decoder
from engine.stats import StageStats
from tests.engine.setups import (
    STAGE_LISTS,
    random_request,
    run,
    target_model,
    token_ids,
)

CASES_PER_LIST = 8
"""The first of `MANY_CASES`."""
MANY_CASES = 80


def play(stages: str, num_cases: int, seed: int = 0) -> tuple[int, dict[str, StageStats]]:
    """Run random cases with and without speculation: how many differ, and what stages did."""
    rng = random.Random(f"{stages}{seed}")
    totals: dict[str, StageStats] = {}
    num_different = 0
    for _ in range(num_cases):
        decoder = Decoder(target_model(), STAGE_LISTS[stages](rng.randrange(1, 65)))
        request = random_request(rng)
        plain_steps, plain = run(decoder, request, "off")
        steps, finished = run(decoder, request, "always")
        same = token_ids(plain_steps) == token_ids(steps) and plain.reason == finished.reason
        num_different += not same
        assert plain.stats.num_draft_tokens == 0
        for stage in finished.stats.stages.values():
            totals[stage.name] = totals.get(stage.name, StageStats(stage.name)) + stage
    return num_different, totals


@pytest.mark.parametrize(
    "num_cases", [CASES_PER_LIST, pytest.param(MANY_CASES, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_the_text_is_the_same_with_and_without_speculation(stages: str, num_cases: int) -> None:
    """And the cases accepted and rejected drafts of every stage, or they would prove nothing."""
    num_different, totals = play(stages, num_cases)
    assert num_different == 0
    for stage in totals.values():
        assert 0 < stage.num_accepted < stage.num_proposed, stage
    assert len(totals) == 1 + stages.count(" over ") + stages.count(" with ")


def test_a_request_after_others_is_as_if_it_came_alone() -> None:
    """Kept prefixes, a used look-up and a drafted cache leave no trace in the text."""
    rng = random.Random(7)
    used = Decoder(target_model(), STAGE_LISTS["draft over ngram"](20))
    first = random_request(rng)
    for _ in range(10):
        run(used, random_request(rng))
        run(used, first, rng.choice(["off", "always", "auto"]))
    after_others = token_ids(run(used, first)[0])
    alone = Decoder(target_model(), STAGE_LISTS["draft over ngram"](20))
    assert token_ids(run(alone, first)[0]) == after_others


def test_ids_reach_every_part_of_the_vocabulary() -> None:
    """The cases are varied: no loop of a few tokens makes equality cheap."""
    rng = random.Random(3)
    decoder = Decoder(target_model())
    seen = Counter(
        token for _ in range(60) for token in token_ids(run(decoder, random_request(rng), "off")[0])
    )
    assert len(seen) > 55
    assert seen.most_common(1)[0][1] < 0.2 * seen.total()
