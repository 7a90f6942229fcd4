"""DRY: a penalty for the token that would go on with a repetition, as llama.cpp has it.

    ... the cat sat on the mat . the cat sat       the text, then the path
        -----------              -----------       a repetition of three tokens, so that
                   on                              costs multiplier * base ** (3 - allowed)

The longest repetition before a token counts, of those that end where the text does. None reaches
back behind a breaker, and a breaker costs nothing. After p-e-w, oobabooga/text-generation-webui
#5677.
"""

import math
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.edits.edit import Touched
from engine.request import SamplingParams

_LARGEST_EXPONENT = 88.0
"""Of e, in float32; longer repetitions cost no more."""


class Dry:
    """The tokens of a text as an array, read as it grows, and what is asked for."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._breakers = frozenset(params.dry_sequence_breakers)
        self._tokens = array("q")
        growth = math.log(params.dry_base)
        self._longest = params.dry_allowed_length + (
            int(_LARGEST_EXPONENT / growth) if growth > 1e-6 else 0
        )

    def touched(self, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        """Every token that has followed what the text and the path end in."""
        self._tokens.extend(tokens[len(self._tokens) :])
        recent = np.array(self._tokens)
        if path:
            recent = np.append(recent, path)
        if self._params.dry_penalty_last_n >= 0:
            recent = recent[max(0, len(recent) - self._params.dry_penalty_last_n) :]
        lengths = self._repetitions(recent)
        ids = np.fromiter(lengths, np.int64, len(lengths))
        excess = np.fromiter(lengths.values(), np.float64, len(lengths))
        excess -= self._params.dry_allowed_length
        minus = self._params.dry_multiplier * self._params.dry_base**excess
        return Touched(ids, minus.astype(np.float32)[None])

    def _repetitions(self, recent: NDArray[np.int64]) -> dict[int, int]:
        """By token, the longest run at the end of `recent` that it has followed before.

        Of those that are too long.
        """
        size = len(recent)
        most = min(self._longest, size - 1)
        last = reversed(recent[size - most :].tolist())
        most = next((place for place, token in enumerate(last) if token in self._breakers), most)
        found: dict[int, int] = {}
        followers = np.arange(1, size)
        for length in range(1, most + 1):
            followers = followers[followers >= length]
            followers = followers[recent[followers - length] == recent[size - length]]
            if not len(followers):
                break
            if length >= self._params.dry_allowed_length:
                found.update(dict.fromkeys(recent[followers].tolist(), length))
        return {token: length for token, length in found.items() if token not in self._breakers}

    @staticmethod
    def apply(logits: Tensor, places: Tensor, figures: Tensor) -> None:
        """Subtract."""
        logits.index_add_(0, places, figures[0], alpha=-1)
