"""What a request may ask of the choice of its tokens: ranges, ids, and how many of each."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain

from engine.request import SamplingParams

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "top_n_sigma": (0, math.inf),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    # Beyond these a logit that is divided by it may be no number.
    "repetition_penalty": (0.01, 100),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "dry_multiplier": (0, math.inf),
    "dry_base": (1, math.inf),
    "dry_allowed_length": (1, math.inf),
    "dry_penalty_last_n": (-1, math.inf),
    "min_tokens": (0, math.inf),
}
_MOST_BIAS = 100
_MOST_BAD_WORDS, _LONGEST_BAD_WORD = 1000, 100

Problem = tuple[str, str]
"""The name of a parameter, and what is wrong with it."""


def sampling_problems(
    params: SamplingParams, vocab_size: int, max_tokens: int
) -> Iterator[Problem]:
    """All that is wrong with them, for a reply of at most so many tokens."""
    yield from _numbers(params, max_tokens)
    yield from _ids(params, vocab_size)
    yield from _lists(params)


def _numbers(params: SamplingParams, max_tokens: int) -> Iterator[Problem]:
    for name, (least, most) in _RANGES.items():
        value = getattr(params, name)
        if not (least <= value <= most and math.isfinite(value)):
            bounds = f"from {least} to {most}" if most < math.inf else f"{least} or more"
            yield name, f"{name} is {value}: it must be {bounds}."
    if params.min_tokens > max_tokens:
        told = f"min_tokens is {params.min_tokens}, and the reply has {max_tokens} at most"
        yield "min_tokens", f"{told}: lower it, or raise max_tokens."


def _ids(params: SamplingParams, vocab_size: int) -> Iterator[Problem]:
    lists: dict[str, Iterable[int]] = {
        "logit_bias": (token for token, _ in params.logit_bias),
        "allowed_token_ids": params.allowed_token_ids,
        "bad_words": chain.from_iterable(params.bad_words),
        "dry_sequence_breakers": params.dry_sequence_breakers,
    }
    for name, ids in lists.items():
        strange = next((token for token in ids if not 0 <= token < vocab_size), None)
        if strange is not None:
            yield name, f"{name}: {strange} is no token: ids must be from 0 to {vocab_size - 1}."


def _lists(params: SamplingParams) -> Iterator[Problem]:
    for token, bias in params.logit_bias:
        if not -_MOST_BIAS <= bias <= _MOST_BIAS:
            bounds = f"from -{_MOST_BIAS} to {_MOST_BIAS}"
            yield "logit_bias", f"logit_bias of token {token} is {bias}: it must be {bounds}."
    if len({token for token, _ in params.logit_bias}) < len(params.logit_bias):
        yield "logit_bias", "logit_bias names a token twice: add its biases up."
    if len(params.bad_words) > _MOST_BAD_WORDS:
        told = f"bad_words are {len(params.bad_words)}: give {_MOST_BAD_WORDS} at most."
        yield "bad_words", told
    if not all(0 < len(word) <= _LONGEST_BAD_WORD for word in params.bad_words):
        told = f"each of bad_words must be of 1 to {_LONGEST_BAD_WORD} tokens: leave out others."
        yield "bad_words", told
