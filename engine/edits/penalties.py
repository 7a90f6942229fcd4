"""The penalties for tokens that are there already: repetition, frequency, presence.

Repetition counts prompt and reply, and divides a logit above zero or multiplies one below. The
others count the reply alone: frequency subtracts for every time, presence once. As vLLM does it.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.edits.edit import Touched
from engine.request import SamplingParams


class Penalties:
    """How often each token of a text is in it, read as it grows; a path is counted on top."""

    def __init__(self, params: SamplingParams, num_prompt: int) -> None:
        self._params = params
        self._num_prompt = num_prompt
        # Without a penalty for repetition no token of the prompt matters.
        self._num_read = 0 if params.repetition_penalty != 1.0 else num_prompt
        self._places: dict[int, int] = {}
        self._ids, self._counts = array("q"), array("f")

    def touched(self, tokens: Sequence[int], path: Sequence[int]) -> Touched:
        """Every token of the reply and the path, and of the prompt where repetition counts."""
        for index in range(self._num_read, len(tokens)):
            place = self._places.setdefault(tokens[index], len(self._ids))
            if place == len(self._ids):
                self._ids.append(tokens[index])
                self._counts.append(0.0)
            self._counts[place] += index >= self._num_prompt
        self._num_read = max(self._num_read, len(tokens))
        ids, counts = self._with_path(path)
        params = self._params
        minus = params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        repetition = np.full_like(minus, params.repetition_penalty)
        return Touched(ids, np.stack((repetition, minus)).astype(np.float32, copy=False))

    def _with_path(self, path: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The ids and counts of the text with those of a path."""
        new = [token for token in dict.fromkeys(path) if token not in self._places]
        ids, counts = np.array(self._ids), np.array(self._counts)
        if new:
            ids = np.append(ids, new)
            counts = np.append(counts, np.zeros(len(new), np.float32))
        place_of_new = {token: len(self._ids) + place for place, token in enumerate(new)}
        for token in path:
            counts[self._places[token] if token in self._places else place_of_new[token]] += 1
        return ids, counts

    @staticmethod
    def apply(logits: Tensor, places: Tensor, figures: Tensor) -> None:
        """Divide or multiply, then subtract."""
        repetition, minus = figures.unbind()
        values = logits.index_select(0, places)
        values = torch.where(values > 0, values / repetition, values * repetition) - minus
        logits.index_copy_(0, places, values)
