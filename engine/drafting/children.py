"""The children that a stage's network gives to a node, beside those that were guessed before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.economy import Kind, Step

GUESS_WEIGHT = 0.15
"""How far the stage below is believed about its own guess, against the network's opinion of it.

Only until the economy has seen how such guesses fare.
"""
_LIKELY, _SURE = math.log(0.25), math.log(0.75)


@dataclass(frozen=True, slots=True)
class Children:
    """What the stage `name` lists below nodes of a step's tree."""

    step: Step
    name: str

    def put(
        self,
        node: int,
        tokens: Sequence[int],
        values: Sequence[float],
        opinions: Mapping[int, float],
    ) -> set[int]:
        """Give a node its best children; returns those that the stage below had guessed.

        Their tokens and log probabilities are given, best first. Where a child is a guess, the
        network's opinion of it and the guesser's own are mixed: a guess that the network would not
        have made stays a candidate, if a doubtful one.
        """
        tree, claims, name = self.step.tree, self.step.claims, self.name
        estimates = tree.estimates
        guesses = {child: estimates[child] for child in tree.children(node)}
        surest = max(guesses.values(), default=-math.inf)
        claims.rank(name, node, math.exp(estimates[node]), tokens)
        ranks: dict[int, int] = {}
        for rank, (token, opinion) in enumerate(zip(tokens, values, strict=True)):
            if opinion == -math.inf:
                break
            child = tree.child(node, token)
            if child is not None:
                ranks[child] = rank
                continue
            kind = claim_kind(name, rank, surest)
            tree.add(node, token, claims.believe(node, token, kind, opinion), name)
        for child, guess in guesses.items():
            kind = (name, ranks.get(child, len(tokens)), _grade(guess))
            claim = _mix(opinions[child], guess)
            estimates[child] = claims.believe(node, tree.tokens[child], kind, claim)
        return set(ranks)

    def opinions(
        self,
        node: int,
        tokens: Sequence[int],
        values: Sequence[float],
        known: Mapping[int, float],
    ) -> dict[int, float]:
        """The network's log probability of every child that a node has already.

        From the tokens that it lists there, or from what is known of some nodes; of others it
        thinks nothing.
        """
        tree = self.step.tree
        if not (children := tree.children(node)):
            return {}
        listed = dict(zip(tokens, values, strict=True))
        return {
            child: listed.get(tree.tokens[child], known.get(child, -math.inf)) for child in children
        }


def claim_kind(name: str, rank: int, surest_guess: float = -math.inf) -> Kind:
    """The kind of a claim of a network's own: its rank, and how sure a guess stands beside it."""
    return name, rank, -_grade(surest_guess)


def _mix(opinion: float, guess: float) -> float:
    """The logarithm of the weighted mean of two probabilities, given as logarithms."""
    mixed = (1 - GUESS_WEIGHT) * math.exp(opinion) + GUESS_WEIGHT * math.exp(guess)
    return math.log(max(mixed, 1e-30))


def _grade(estimate: float) -> int:
    """How sure a guess is: 0 for none, then doubtful, likely, sure."""
    return (estimate > -math.inf) + (estimate > _LIKELY) + (estimate > _SURE)
