"""Fakes on our side of the seams: drafters that a test controls."""

import random
from collections.abc import Callable, Mapping, Sequence

from engine.drafting.base import Drafter, NoStage, StageWork
from engine.scorer import TreeScorer
from engine.text import Text
from engine.tree import TokenTree


class AdversarialDrafter:
    """Random valid trees of random shape: deep, wide or empty, of tokens that rarely fit.

    It keeps the contract (budget, depth, nothing below an end of text) and is otherwise useless.
    """

    def __init__(self, seed: int, budget: int, vocab_size: int) -> None:
        self.budget = budget
        self.work = StageWork("adversary")
        self._random = random.Random(seed)
        self._vocab_size = vocab_size

    def reset(self, prompt: Sequence[int]) -> None:
        """Nothing is remembered."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Nothing is learnt."""

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """Up to `budget` random nodes, each under a random one of those so far."""
        proposed: list[int] = []
        for _ in range(self._random.randrange(budget + 1)):
            places = [node for node in [*leaves, *proposed] if text.can_extend(tree, node)]
            if not places:
                break
            token = self._random.randrange(self._vocab_size)
            place, claim = self._random.choice(places), -self._random.random()
            estimate = text.economy.believe(place, token, (self.work.name,), claim)
            node = tree.add(place, token, estimate, self.work.name)
            if node not in proposed:
                proposed.append(node)
        return proposed

    def take_work(self) -> list[StageWork]:
        """An empty record."""
        return [self.work.take()]

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """It has no network."""
        return {}

    def scorers(self) -> Mapping[str, TreeScorer]:
        """Nor here."""
        return {}


class OracleDrafter(NoStage):
    """Proposes a known text as one chain, from wherever the text stands."""

    def __init__(self, text: Sequence[int], budget: int) -> None:
        super().__init__()
        self.budget = budget
        self.work = StageWork("oracle")
        self._text = list(text)

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """The next `budget` tokens of the known text."""
        node, proposed = leaves[0], []
        for token in self._text[len(text.tokens) :][:budget]:
            if not text.can_extend(tree, node):
                break
            estimate = text.economy.believe(node, token, (self.work.name,), -0.1)
            node = tree.add(node, token, estimate, self.work.name)
            proposed.append(node)
        return proposed

    def take_work(self) -> list[StageWork]:
        """An empty record."""
        return [self.work.take()]


_: tuple[Drafter, ...] = (AdversarialDrafter(0, 1, 1), OracleDrafter([], 1))
