"""How large a tree should be, by the reach of its nodes and what a step of each size takes."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

NOTHING = 1e-9
"""A price for what is free, in milliseconds, so that rates stay finite."""


class Choice(NamedTuple):
    """What each node to verify is in the tree as it grew, roots among them, and a forecast.

    `tokens` are those that each text is expected to emit, `milliseconds` what the step should take.
    """

    nodes: list[int]
    tokens: list[float]
    milliseconds: float


class Prospects(NamedTuple):
    """What growing costs: the milliseconds of a step by its draft nodes, and those of a node.

    Nodes with less than the `least` chance are not worth their handling.
    """

    step: Sequence[float]
    node: float
    least: float

    def are_good(self, chance: float, num_nodes: int, tokens: float) -> bool:
        """Whether a tree of so many nodes, which promises so many tokens, could pay if it grew.

        `chance` is the reach of its next node, and no later one's is higher: at some size a tree
        of such nodes would have to make as much of the time as the tree has made so far.
        """
        if chance < self.least:
            return False
        now = self.step[num_nodes]
        growing = enumerate(self.step[num_nodes + 1 :], start=1)
        return any(
            (tokens + k * chance) * now >= tokens * (ms + k * self.node) for k, ms in growing
        )


def best_size(
    reach: Iterable[float], milliseconds: Sequence[float], certain: float = 1.0
) -> tuple[int, float]:
    """How many of the likeliest nodes to verify, and the tokens per millisecond that promises.

    `reach` are the nodes' reach probabilities, falling, so that no node comes before its parent;
    `milliseconds[n]` is what the step takes with n of them. So many tokens are `certain` to come
    without any: one of every text.
    """
    size, tokens, best = 0, certain, certain / max(milliseconds[0], NOTHING)
    for count, chance in enumerate(reach, start=1):
        tokens += chance
        if tokens > best * milliseconds[count]:
            rate = tokens / max(milliseconds[count], NOTHING)
            if rate > best:
                size, best = count, rate
    return size, best
