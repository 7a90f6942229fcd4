"""What may not follow: all but `allowed_token_ids`, the ends of `bad_words`, an end of the text
before `min_tokens`.

`allowed_token_ids` hold always, but for a constraint that allows none of them. Where the others
would leave no token at all, they give way.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine.edits.edit import Touched
from engine.request import SamplingParams


class Bans:
    """What one text may not say, and after what."""

    def __init__(
        self, params: SamplingParams, vocab_size: int, num_prompt: int, stop_ids: frozenset[int]
    ) -> None:
        self._num_prompt, self._first_end = num_prompt, num_prompt + params.min_tokens
        self._stop_ids = stop_ids
        is_other = np.full(vocab_size, bool(params.allowed_token_ids))
        is_other[list(params.allowed_token_ids)] = False
        self._others = np.flatnonzero(is_other)
        self._allowed = frozenset(params.allowed_token_ids)
        self._vocab_size = vocab_size
        self._always = frozenset(word[0] for word in params.bad_words if len(word) == 1)
        self._words = [(list(word[:-1]), word[-1]) for word in params.bad_words if len(word) > 1]
        self._longest = max((len(start) for start, _ in self._words), default=0)

    def touched(self, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        """Every token that is banned there. The words are looked for in the reply alone."""
        banned = set(self._always)
        if len(tokens) + len(path) < self._first_end:
            banned |= self._stop_ids
        if self._words:
            start = max(self._num_prompt, len(tokens) - self._longest)
            written = [*tokens[start:], *path]
            banned.update(last for word, last in self._words if written[-len(word) :] == word)
        if self._is_all(banned):
            banned.clear()
        ids = np.append(self._others, np.array([*banned], np.int64))
        return Touched(ids, np.empty((0, len(ids)), np.float32))

    def _is_all(self, banned: set[int]) -> bool:
        return banned >= self._allowed if self._allowed else len(banned) == self._vocab_size

    @staticmethod
    def apply(logits: Tensor, places: Tensor, figures: Tensor) -> None:
        """Minus infinity."""
        logits.index_fill_(0, places, -np.inf)
