"""Which nodes of a tree a stage's network could evaluate next."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.economy import Step, Turn


@dataclass(frozen=True, slots=True)
class Frontier:
    """The nodes after which the network has yet to say what comes.

    None of a text is as deep as its `max_depths`, which are those of the network, and none is of
    the texts that are `behind`: those that the network has yet to read.
    """

    step: Step
    turn: Turn
    max_depths: Sequence[int]
    behind: set[int] = field(default_factory=set)

    def open_among(self, nodes: Iterable[int]) -> list[int]:
        """Those of these nodes that the network may evaluate."""
        step, evaluated, max_depths = self.step, self.turn.evaluated, self.max_depths
        depths, texts = step.tree.depths, step.tree.texts
        return [
            node
            for node in nodes
            if depths[node] < max_depths[texts[node]]
            and texts[node] not in self.behind
            and node not in evaluated
            and step.can_extend(node)
        ]

    def best(self, leaves: Sequence[int], budget: int, width: int) -> list[int]:
        """Of every text the `width` best below `leaves`, of `budget` nodes worth recommending."""
        tree = self.step.tree
        waiting: list[list[int]] = [[] for _ in tree.roots]
        for node in self.open_among(tree.best(budget, below=leaves)):
            waiting[tree.texts[node]].append(node)
        key = tree.scores().__getitem__
        return [node for nodes in waiting for node in heapq.nlargest(width, nodes, key=key)]

    def with_ancestors(self, nodes: Iterable[int]) -> list[int]:
        """The nodes and those of their ancestors that have not been evaluated, text by text."""
        texts, parents, evaluated = (
            self.step.tree.texts,
            self.step.tree.parents,
            self.turn.evaluated,
        )
        needed: set[int] = set()
        for start in nodes:
            node = start
            while node >= 0 and node not in needed and node not in evaluated:
                needed.add(node)
                node = parents[node]
        return sorted(needed, key=lambda node: (texts[node], node))
