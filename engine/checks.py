"""What a request may ask of the choice of its tokens: ranges, ids, and how many of each."""

import math
from collections.abc import Iterable, Iterator
from itertools import chain

from engine.request import SamplingParams

_RANGES: dict[str, tuple[float, float]] = {
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "temperature": (0, math.inf),
    "top_k": (0, math.inf),
    "top_n_sigma": (0, math.inf),
    "dry_multiplier": (0, math.inf),
    "dry_base": (1, math.inf),
    "dry_allowed_length": (1, math.inf),
    "dry_penalty_last_n": (-1, math.inf),
    "min_tokens": (0, math.inf),
}
_MOST_BIAS = 100
_MOST_BAD_WORDS, _LONGEST_BAD_WORD = 1000, 100


def sampling_problem(params: SamplingParams, vocab_size: int, max_tokens: int) -> str | None:
    """What is wrong with them, for a reply of at most so many tokens; None if nothing is."""
    return next(chain(_numbers(params, max_tokens), _lists(params, vocab_size)), None)


def _numbers(params: SamplingParams, max_tokens: int) -> Iterator[str]:
    for name, (least, most) in _RANGES.items():
        value = getattr(params, name)
        if not (least <= value <= most and math.isfinite(value)):
            bounds = f"from {least} to {most}" if most < math.inf else f"{least} or more"
            yield f"{name} is {value}: it must be {bounds}."
    if not 0 < params.repetition_penalty < math.inf:
        yield f"repetition_penalty is {params.repetition_penalty}: it must be above 0 (1 is none)."
    if params.min_tokens > max_tokens:
        yield (
            f"min_tokens is {params.min_tokens}, and the reply has {max_tokens} at most: lower it, "
            "or raise max_tokens."
        )


def _lists(params: SamplingParams, vocab_size: int) -> Iterator[str]:
    words = params.bad_words
    for name, ids in {
        "logit_bias": (token for token, _ in params.logit_bias),
        "allowed_token_ids": params.allowed_token_ids,
        "bad_words": chain.from_iterable(words),
        "dry_sequence_breakers": params.dry_sequence_breakers,
    }.items():
        if (strange := _outside(ids, vocab_size)) is not None:
            yield f"{name} has the token id {strange}: ids are from 0 to {vocab_size - 1}."
    for token, bias in params.logit_bias:
        if not -_MOST_BIAS <= bias <= _MOST_BIAS:
            yield (
                f"logit_bias of token {token} is {bias}: it must be from -{_MOST_BIAS} to "
                f"{_MOST_BIAS}."
            )
    if len({token for token, _ in params.logit_bias}) < len(params.logit_bias):
        yield "logit_bias names a token twice: add its biases up."
    if len(words) > _MOST_BAD_WORDS:
        yield f"bad_words are {len(words)}: give {_MOST_BAD_WORDS} at most."
    if not all(0 < len(word) <= _LONGEST_BAD_WORD for word in words):
        yield f"each of bad_words must be of 1 to {_LONGEST_BAD_WORD} tokens: leave out the others."


def _outside(ids: Iterable[int], vocab_size: int) -> int | None:
    """The first id that is no token, if there is one."""
    return next((token for token in ids if not 0 <= token < vocab_size), None)
