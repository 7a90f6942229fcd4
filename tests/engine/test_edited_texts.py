"""Speculation never changes a text, whatever its parameters: over every stage list."""

import random
from dataclasses import replace

import pytest

from engine.decoder import Decoder
from engine.request import SamplingParams
from tests.checkpoints import VOCAB_SIZE
from tests.engine.sampling_params import random_edits, random_filters
from tests.engine.setups import STAGE_LISTS, random_request, run, target_model, token_ids

CASES_PER_LIST = 6
"""The first of `MANY_CASES`."""
MANY_CASES = 48


def play(stages: str, num_cases: int, seed: int = 0) -> tuple[int, int, int]:
    """Random cases with and without speculation: how many differ, drafts accepted and rejected."""
    rng = random.Random(f"edited {stages}{seed}")
    num_different = num_accepted = num_drafts = 0
    for _ in range(num_cases):
        decoder = Decoder(target_model(), STAGE_LISTS[stages](rng.randrange(1, 65)))
        request = random_request(rng)
        filters = SamplingParams(**random_filters(rng))  # type: ignore[arg-type]
        request = replace(request, sampling=filters)
        said = token_ids(run(decoder, request, "off")[0])
        sampling = replace(filters, **random_edits(rng, VOCAB_SIZE, said))
        sampling = replace(sampling, min_tokens=min(sampling.min_tokens, request.max_tokens))
        request = replace(request, sampling=sampling)
        plain_steps, plain = run(decoder, request, "off")
        steps, finished = run(decoder, request, "always")
        same = token_ids(plain_steps) == token_ids(steps) and plain.reason == finished.reason
        num_different += not same
        num_accepted += finished.stats.num_accepted_drafts
        num_drafts += finished.stats.num_draft_tokens
    return num_different, num_accepted, num_drafts - num_accepted


@pytest.mark.parametrize(
    "num_cases", [CASES_PER_LIST, pytest.param(MANY_CASES, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("stages", list(STAGE_LISTS))
def test_the_text_is_the_same_with_and_without_speculation(stages: str, num_cases: int) -> None:
    """And drafts were accepted and rejected, or it would prove nothing."""
    num_different, num_accepted, num_rejected = play(stages, num_cases)
    assert num_different == 0
    assert num_accepted > 0 and num_rejected > 0
