"""An adjacency list that grows while serving: what was likely after a token, or after two."""

import math
from collections import OrderedDict
from collections.abc import Sequence

from engine.drafting.katz import Continuations
from engine.drafting.stage import Scored
from engine.ranking import likeliest

_NUM_KEPT = 8
"""Tokens of a row."""
_NUM_WEIGHED = 64
"""Of the likeliest, which have nearly all of a row's probability: the others are not read again."""
_CAPACITY = 1 << 15
"""Rows: some 30 MB."""

_Context = tuple[str | None, int, int]
"""A salt, and the last two tokens; the first of them is -1 in a context of one."""


class Adjacency:
    """The likeliest next tokens by the last two and by the last one, as they were last scored.

    Contexts of one salt are nobody's but those of texts with the same salt. Of more than `capacity`
    contexts, those that were learnt longest ago are forgotten.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._rows: OrderedDict[_Context, Continuations] = OrderedDict()
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._rows)

    def after(self, tail: Sequence[int], salt: str | None) -> tuple[int, Continuations | None]:
        """How many of the last tokens are known, 2, 1 or none, and what was likely after them."""
        before, last = tail[-2] if len(tail) > 1 else -1, tail[-1]
        if (row := self._rows.get((salt, before, last))) is not None:
            return (2 if before >= 0 else 1), row
        return 1, self._rows.get((salt, -1, last))

    def learn(self, scored: Scored) -> None:
        """Remember all rows."""
        texts, tree = scored.texts, scored.tree
        for node, row in zip(scored.nodes, _rows(scored), strict=True):
            if not row.tokens:
                continue
            text, parent = texts[tree.texts[node]], tree.parents[node]
            if parent >= 0:
                before = tree.tokens[parent]
            else:
                before = text.tokens[-2] if len(text.tokens) > 1 else -1
            salt, last = text.salt, tree.tokens[node]
            self._remember((salt, before, last), row)
            self._remember((salt, -1, last), row)
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)

    def _remember(self, context: _Context, row: Continuations) -> None:
        self._rows[context] = row
        self._rows.move_to_end(context)


def _rows(scored: Scored) -> list[Continuations]:
    """The likeliest tokens of every row; none of a row that holds no numbers."""
    logits = scored.logits.float()
    scores, best = likeliest(logits, min(_NUM_WEIGHED, logits.shape[-1]))
    return [_row(*row) for row in zip(best.tolist(), scores.tolist(), strict=True)]


def _row(tokens: Sequence[int], scores: Sequence[float]) -> Continuations:
    """Tokens in falling order of their scores, with the logarithms of their shares of the whole."""
    highest = scores[0]
    if not math.isfinite(highest):
        return Continuations((), ())
    whole = highest + math.log(sum(math.exp(score - highest) for score in scores))
    kept = [score - whole for score in scores[:_NUM_KEPT] if score > -math.inf]
    return Continuations(tuple(tokens[: len(kept)]), tuple(kept))
