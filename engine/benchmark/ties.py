"""Near ties: by how much a text's token outscored the one that another text has in its place.

Speculation never changes a text but by rounding: in low precision a pass of another width gives
other logits, and where two tokens score nearly the same the other one may be chosen. So where two
texts part, the gap should be no larger than what the width of a pass does to scores.
"""

from collections.abc import Sequence
from dataclasses import replace

from engine.api import Engine
from engine.model import Model
from engine.noise import NoiseRows, noise_values
from engine.request import GenerateRequest, Output
from engine.rows import Tokens
from engine.tree import TokenTree

_WIDTH = 16


def gap(
    engine: Engine, request: GenerateRequest, text: Sequence[int], plain: int, other: int
) -> float:
    """By how much the score of `plain` exceeds that of `other` after the request's reply `text`.

    A score is a log-probability over the temperature, and the position's noise.
    """
    prompt = (*request.prompt, *text)
    whole = replace(
        request,
        prompt=prompt,
        max_tokens=1,
        num_logprobs=engine.info.vocab_size,
        speculation="off",
    )
    step = next(iter(engine.generate(whole)))
    assert isinstance(step, Output)
    logprobs = dict(step.tokens[0].top_logprobs)
    difference = logprobs[plain] - logprobs[other]
    if request.sampling.is_greedy:
        return difference
    noise = NoiseRows(request.sampling.seed, engine.info.vocab_size)
    ours, theirs = noise_values([noise], [len(prompt)], [[plain, other]]).tolist()
    return float(difference / request.sampling.temperature + ours - theirs)


def rounding(model: Model, prompts: Sequence[Sequence[int]]) -> list[float]:
    """How far each logit after each prompt differs between a pass of 1 row and one of 16."""
    differences: list[float] = []
    for prompt in prompts:
        tree = TokenTree(prompt[-1])
        for token in range(_WIDTH - 1):
            tree.add(0, token)
        text = Tokens([*prompt])
        model.score([text], tree, [0])  # the prompt's rows, which stay
        model.strips.rollback()
        alone = model.score([text], tree, [0])[0].float()
        model.strips.rollback()
        among = model.score([text], tree)[0].float()
        differences += (alone - among).abs().tolist()
    return differences
