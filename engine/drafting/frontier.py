"""Which nodes of a tree a stage's network could evaluate next."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.economy import Step, Turn


@dataclass(frozen=True, slots=True)
class Frontier:
    """The nodes after which the network has yet to say what comes, none at `max_depth` or below."""

    step: Step
    turn: Turn
    max_depth: int

    def open_among(self, nodes: Iterable[int]) -> list[int]:
        """Those of these nodes that the network may evaluate."""
        depths, evaluated, step = self.step.tree.depths, self.turn.evaluated, self.step
        return [
            node
            for node in nodes
            if depths[node] < self.max_depth and node not in evaluated and step.can_extend(node)
        ]

    def best(self, leaves: Sequence[int], budget: int, width: int) -> list[int]:
        """The `width` best below `leaves`, of the `budget` nodes now worth recommending."""
        tree = self.step.tree
        waiting = self.open_among(tree.best(budget, below=leaves))
        return heapq.nlargest(width, waiting, key=tree.scores().__getitem__)

    def with_ancestors(self, nodes: Iterable[int]) -> list[int]:
        """The nodes and those of their ancestors that have not been evaluated, in order."""
        parents, evaluated = self.step.tree.parents, self.turn.evaluated
        needed: set[int] = set()
        for start in nodes:
            node = start
            while node >= 0 and node not in needed and node not in evaluated:
                needed.add(node)
                node = parents[node]
        return sorted(needed)
