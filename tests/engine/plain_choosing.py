"""Choosing as plainly as its documentation, one row and one token at a time: no arrays, no search.

What the engine's door is held to. A row is a list of logits, -inf for what may not be chosen.
"""

import math
from collections.abc import Sequence

from engine.request import SamplingParams

Row = list[float]
NEVER = -math.inf


def edited(
    row: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int],
    reply: Sequence[int],
    stop_ids: Sequence[int] = (),
) -> Row:
    """The logits after a prompt and a reply: bias, penalties, DRY, bans."""
    row = list(row)
    for token, bias in params.logit_bias:
        row[token] += bias
    for token in range(len(row)):
        if token in prompt or token in reply:
            ratio = params.repetition_penalty
            row[token] = row[token] / ratio if row[token] > 0 else row[token] * ratio
        count = list(reply).count(token)
        row[token] -= params.frequency_penalty * count + params.presence_penalty * (count > 0)
    for token in range(len(row)):
        row[token] -= dry_penalty(token, params, [*prompt, *reply])
    if params.allowed_token_ids:
        row = [x if token in params.allowed_token_ids else NEVER for token, x in enumerate(row)]
    banned = banned_tokens(params, list(reply), stop_ids)
    left = [token for token, x in enumerate(row) if x > NEVER and token not in banned]
    return [x if token in left or not left else NEVER for token, x in enumerate(row)]


def banned_tokens(params: SamplingParams, reply: list[int], stop_ids: Sequence[int]) -> set[int]:
    """What bad words and a reply that is too short forbid."""
    banned = set(stop_ids) if len(reply) < params.min_tokens else set()
    for *start, last in params.bad_words:
        if reply[len(reply) - len(start) :] == start and len(start) <= len(reply):
            banned.add(last)
    return banned


def dry_penalty(token: int, params: SamplingParams, text: Sequence[int]) -> float:
    """By the longest run that the text ends in and that this token has followed before."""
    if params.dry_penalty_last_n >= 0:
        text = text[max(0, len(text) - params.dry_penalty_last_n) :]
    longest = 0
    for place in range(1, len(text)):
        length = 0
        while (
            length < place
            and text[place - 1 - length] == text[len(text) - 1 - length]
            and text[place - 1 - length] not in params.dry_sequence_breakers
        ):
            length += 1
        if text[place] == token:
            longest = max(longest, length)
    excess = longest - params.dry_allowed_length
    if not params.dry_multiplier or excess < 0 or token in params.dry_sequence_breakers:
        return 0.0
    return params.dry_multiplier * params.dry_base**excess


def filtered(row: Sequence[float], params: SamplingParams, is_excluding: bool = False) -> Row:
    """Logits over the temperature, -inf where the filters drop the token, in their order.

    `is_excluding` tells whether XTC is at work at this position.
    """
    kept = [x for x in row if x > NEVER]
    if params.top_n_sigma > 0:
        mean = sum(kept) / len(kept)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in kept) / len(kept))
        row = at_least(row, max(kept) - params.top_n_sigma * deviation)
    row = [x / params.temperature for x in row]
    if 0 < params.top_k < len(row):
        row = at_least(row, sorted(row)[-params.top_k])
    if params.typical_p < 1:
        entropy = -sum(p * math.log(p) for p in softmax(row) if p > 0)
        strange = [abs(-math.log(p) - entropy) if p > 0 else math.inf for p in softmax(row)]
        mass, cut = 0.0, 0.0
        for token in sorted(range(len(row)), key=strange.__getitem__):
            if mass >= params.typical_p and mass > 0:
                break
            mass, cut = mass + softmax(row)[token], strange[token]
        row = [x if strange[token] <= cut else NEVER for token, x in enumerate(row)]
    if params.top_p < 1:
        mass, cut = 0.0, max(row)
        for token in sorted(range(len(row)), key=row.__getitem__, reverse=True):
            if mass >= params.top_p and mass > 0:
                break
            mass, cut = mass + softmax(row)[token], row[token]
        row = at_least(row, cut)
    if params.min_p > 0:
        row = at_least(row, max(row) + math.log(params.min_p))
    if is_excluding:
        likely = [x for x, p in zip(row, softmax(row), strict=True) if p >= params.xtc_threshold]
        row = [NEVER if x in likely and x > min(likely) else x for x in row]
    return list(row)


def at_least(row: Sequence[float], cut: float) -> Row:
    """What is not below a cut."""
    return [x if x >= cut else NEVER for x in row]


def softmax(row: Sequence[float]) -> Row:
    """Probabilities."""
    weights = [math.exp(x - max(row)) for x in row]
    return [weight / sum(weights) for weight in weights]
