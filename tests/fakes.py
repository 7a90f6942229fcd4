"""Fakes on our side of the seams: drafters that a test controls."""

import random
from collections.abc import Sequence

from engine.drafting.stage import Drafter, NoStage
from engine.economy import Step


class AdversarialDrafter(NoStage):
    """Random valid trees of random shape: deep, wide or empty, of tokens that rarely fit.

    It keeps the contract (budget, depth, nothing below an end of text) and is otherwise useless.
    """

    name = "adversary"

    def __init__(self, seed: int, budget: int, vocab_size: int) -> None:
        self.budget = budget
        self._random = random.Random(seed)
        self._vocab_size = vocab_size

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """Up to `budget` random nodes, each under a random one of those so far."""
        proposed: list[int] = []
        step.turn(self.name)
        for _ in range(self._random.randrange(budget + 1)):
            places = [node for node in [*leaves, *proposed] if step.can_extend(node)]
            if not places:
                break
            token = self._random.randrange(self._vocab_size)
            place, claim = self._random.choice(places), -self._random.random()
            estimate = step.claims.believe(place, token, (self.name,), claim)
            node = step.tree.add(place, token, estimate, self.name)
            if node not in proposed:
                proposed.append(node)
        return proposed


class OracleDrafter(NoStage):
    """Proposes a known text as one chain, from wherever the text stands."""

    name = "oracle"

    def __init__(self, text: Sequence[int], budget: int) -> None:
        self.budget = budget
        self._text = list(text)

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """The next `budget` tokens of the known text."""
        step.turn(self.name)
        node, proposed = leaves[0], []
        for token in self._text[len(step.texts[0].tokens) :][:budget]:
            if not step.can_extend(node):
                break
            estimate = step.claims.believe(node, token, (self.name,), -0.1)
            node = step.tree.add(node, token, estimate, self.name)
            proposed.append(node)
        return proposed


_: tuple[Drafter, ...] = (AdversarialDrafter(0, 1, 1), OracleDrafter([], 1))
