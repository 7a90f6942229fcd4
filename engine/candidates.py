"""What may follow some nodes, and how good each of it is: rows of scores with their token ids."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that can follow some nodes, a row each, and a score for every one of them.

    `scores` is float32, (nodes, width), -inf where there is no candidate. `ids` are the tokens they
    belong to, on the host and in any order; without them column x is token x.
    """

    scores: Tensor
    ids: NDArray[np.int64] | None = None

    def best(self) -> list[int]:
        """The token of the highest score in every row; of equal ones the first."""
        if self.scores.is_cpu:  # numpy's is ten times as fast there
            columns = self.scores.numpy().argmax(axis=-1)
        else:
            columns = self.scores.argmax(dim=-1).cpu().numpy()
        tokens = columns if self.ids is None else self.ids[np.arange(len(columns)), columns]
        best: list[int] = tokens.tolist()
        return best

    def normalised(self) -> "Candidates":
        """The same with scores that are the logarithms of a row's softmax."""
        return Candidates(self.scores.log_softmax(dim=-1), self.ids)

    def top(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The tokens of the highest scores in every row, best first, and these scores."""
        best = self.scores.topk(min(count, self.scores.shape[-1]), dim=-1)
        tokens = best.indices
        if self.ids is not None:
            tokens = torch.from_numpy(self.ids).gather(-1, tokens)
        return tokens.tolist(), best.values.tolist()

    def of(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """The score of one token in each of some rows; -inf for what is no candidate there."""
        if self.ids is None:
            found: list[float] = self.scores[list(rows), list(tokens)].tolist()
            return found
        is_asked = self.ids[list(rows)] == np.array(tokens)[:, None]
        scores = np.where(is_asked, self.scores.numpy()[list(rows)], -math.inf)
        asked: list[float] = scores.max(axis=-1).tolist()
        return asked

    def whole(self, vocab_size: int) -> Tensor:
        """The scores of all tokens below `vocab_size`, on the host: (nodes, vocab_size)."""
        if self.ids is None:
            return self.scores.cpu()
        scores = torch.full((len(self.scores), vocab_size), -math.inf)
        return scores.scatter_(1, torch.from_numpy(self.ids), self.scores)
