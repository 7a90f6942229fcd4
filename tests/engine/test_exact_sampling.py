"""Emitted tokens follow the target's filtered softmax, through the whole loop and its trees."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch

from engine import decoder as decoder_module
from engine.accept import Acceptance
from engine.decoder import Decoder
from engine.drafting.stage import NoStage
from engine.request import GenerateRequest, SamplingParams
from engine.tree import TokenTree
from tests.alone import Alone
from tests.checkpoints import make_model
from tests.engine.filters import filter_logits
from tests.engine.setups import model_stage, run, target_model, token_ids

PROMPT = (5, 9, 33, 7)
PARAMS = SamplingParams(temperature=1.2, top_k=4, min_p=0.02)
NUM_DRAWS = 750
"""More than the 600 in which a rule that is wrong shows beyond doubt."""


@cache
def expected_probabilities() -> dict[tuple[int, ...], float]:
    """The probability of every possible text of three tokens, by the chain rule."""
    model = make_model(hidden_size=48)
    texts: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, probability in texts.items():
            context = [*PROMPT, *text]
            Alone(model).reset(context)
            logits = Alone(model).score(context, TokenTree(context[-1]))
            for token, share in enumerate(filter_logits(logits, PARAMS).softmax(-1)[0].tolist()):
                if share > 0:
                    longer[*text, token] = probability * share
        texts = longer
    return texts


def chi_square_p_value(num_draws: int = NUM_DRAWS) -> float:
    """How likely texts at least this far from the expected frequencies are; 0 if one is impossible.

    The first token comes from a step with no tree, the second and third from trees.
    """
    decoder = Decoder(target_model(), model_stage(NoStage(), "draft", budget=8, passes=2))
    counts: Counter[tuple[int, ...]] = Counter()
    num_accepted = 0
    for seed in range(num_draws):
        sampling = SamplingParams(PARAMS.temperature, PARAMS.top_k, min_p=PARAMS.min_p, seed=seed)
        request = GenerateRequest("r", PROMPT, 3, sampling, ignore_eos=True)
        steps, finished = run(decoder, request)
        counts[tuple(token_ids(steps))] += 1
        num_accepted += finished.stats.num_accepted_drafts
    assert num_accepted > num_draws / 4, "no trees, no proof"
    expected = expected_probabilities()
    if counts.keys() - expected.keys():
        return 0.0
    common = {text: p for text, p in expected.items() if p * num_draws >= 5}
    rare = 1.0 - sum(common.values())
    chi2 = sum((counts[text] - num_draws * p) ** 2 / (num_draws * p) for text, p in common.items())
    num_rare = num_draws - sum(counts[text] for text in common)
    chi2 += (num_rare - num_draws * rare) ** 2 / (num_draws * rare)
    halves = torch.tensor([len(common) / 2, chi2 / 2], dtype=torch.float64)
    return torch.special.gammaincc(halves[0], halves[1]).item()


def test_texts_follow_the_targets_filtered_distribution() -> None:
    assert chi_square_p_value() > 1e-3


def test_a_rule_that_favours_the_drafts_first_choice_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same test with acceptance by rank in the draft: it must not pass."""

    def accept_first_child(
        tree: TokenTree, choose: Callable[[Sequence[int]], Sequence[int]]
    ) -> list[Acceptance]:
        children = tree.children(0)
        if children and tree.estimates[children[0]] > -0.5:
            return [Acceptance((children[0],), choose([children[0]])[0])]
        return [Acceptance((), choose([0])[0])]

    monkeypatch.setattr(decoder_module, "accept", accept_first_child)
    assert chi_square_p_value(600) < 1e-6
