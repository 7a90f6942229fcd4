"""The stage with a network, a draft model or a head: it grows the tree best-first, pass by pass.

Before each of its passes it asks the stage below for guesses; a guess that it would have made
itself is a level of the tree for which it needs no further pass.
"""

import heapq
import math
from collections.abc import Sequence

from torch import Tensor

from engine.config import ModelStageConfig
from engine.drafting.base import Context, Drafter, StageWork
from engine.scorer import TreeScorer
from engine.tree import TokenTree

_GUESS_WEIGHT = 0.15
"""How far the stage below is believed about its own guess, against this model's opinion of it."""


class ModelDrafter:
    """A draft model or a head over its stage below; its cache holds the first committed tokens.

    Before drafting it feeds the committed tokens that it lacks, root included, in the first pass.
    """

    def __init__(
        self,
        config: ModelStageConfig,
        model: TreeScorer,
        below: Drafter,
        name: str,
        vocab_size: int,
    ) -> None:
        self.budget = config.budget
        self.work = StageWork(name)
        self._config = config
        self._model = model
        self._below = below
        self._vocab_size = vocab_size
        self._tree: TokenTree | None = None
        self._evaluated: set[int] = set()
        self._max_depth = 0

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text; the model keeps what it has in common with the last one."""
        self._tree = None
        self._model.reset(prompt)
        self._below.reset(prompt)

    def observe(self, tokens: Sequence[int]) -> None:
        """Pass on what was committed; this stage reads it from the context when it next drafts."""
        self._below.observe(tokens)

    def grow(
        self, context: Context, tree: TokenTree, leaves: Sequence[int], budget: int
    ) -> list[int]:
        """Expand the best nodes below `leaves` for some passes; recommend the best `budget`.

        A text that has outgrown the model's window is left to the stage below.
        """
        self._max_depth = self._model.max_depth(context.tokens)
        if self._max_depth < 1:
            return self._below.grow(context, tree, leaves, budget)
        if tree is not self._tree:
            self._model.rollback()
            self._tree, self._evaluated = tree, set()
            with self.work.timed():
                if not self._model.catch_up(context.tokens, context.is_cancelled):
                    return []
        frontier = [leaf for leaf in leaves if self._is_open(context, tree, leaf)]
        frontier = frontier or self._next_frontier(context, tree, leaves, budget)
        for _ in range(self._config.passes):
            if not frontier:
                break
            guesses = self._below.grow(context, tree, frontier, self._below.budget)
            with self.work.timed():
                self._evaluate(context, tree, frontier, guesses)
                frontier = self._next_frontier(context, tree, leaves, budget)
        return tree.best(budget, below=leaves)

    def take_work(self) -> list[StageWork]:
        """This stage's work, then that of the stages below."""
        return [self.work.take(), *self._below.take_work()]

    def _next_frontier(
        self, context: Context, tree: TokenTree, leaves: Sequence[int], budget: int
    ) -> list[int]:
        """The best nodes, of those now worth recommending, that the model has not evaluated."""
        scores = tree.scores()
        waiting = [
            node for node in tree.best(budget, below=leaves) if self._is_open(context, tree, node)
        ]
        return heapq.nlargest(self._config.width, waiting, key=scores.__getitem__)

    def _is_open(self, context: Context, tree: TokenTree, node: int) -> bool:
        """Whether the model has yet to say what comes after this node."""
        is_within_window = tree.depths[node] < self._max_depth
        return is_within_window and node not in self._evaluated and context.can_extend(tree, node)

    def _evaluate(
        self, context: Context, tree: TokenTree, frontier: Sequence[int], guesses: Sequence[int]
    ) -> None:
        """One draft pass over frontier and guesses, then children for each of them."""
        open_guesses = [node for node in guesses if self._is_open(context, tree, node)]
        expanded = sorted({*frontier, *open_guesses})
        nodes = self._with_ancestors(tree, expanded)
        before = self._model.num_passes
        logits = self._model.score(context.tokens, tree, nodes)[:, : self._vocab_size]
        self.work.num_passes += self._model.num_passes - before
        self._evaluated.update(nodes)
        rows = [nodes.index(node) for node in expanded]
        positions = [context.root_position + tree.depths[node] + 1 for node in expanded]
        perturbed = context.sampler.perturb(logits[rows], positions)
        confirmed = self._expand(tree, expanded, perturbed.log_softmax(dim=-1))
        self._below.work.num_guesses += len(guesses)
        self._below.work.num_confirmed += len(confirmed.intersection(guesses))

    def _with_ancestors(self, tree: TokenTree, nodes: Sequence[int]) -> list[int]:
        """The nodes and those of their ancestors that the model has yet to evaluate, in order."""
        needed: set[int] = set()
        for start in nodes:
            node = start
            while node >= 0 and node not in needed and node not in self._evaluated:
                needed.add(node)
                node = tree.parents[node]
        return sorted(needed)

    def _expand(self, tree: TokenTree, nodes: Sequence[int], estimates: Tensor) -> set[int]:
        """Give every node its best children; returns those that the stage below had guessed.

        Where a child is a guess, the model's opinion of it and the guesser's own are mixed: a guess
        that the model would not have made stays a candidate, if a doubtful one.
        """
        guessed = [(row, child) for row, node in enumerate(nodes) for child in tree.children(node)]
        if guessed:
            rows, children = zip(*guessed, strict=True)
            opinions = estimates[list(rows), [tree.tokens[child] for child in children]].tolist()
            for child, opinion in zip(children, opinions, strict=True):
                tree.estimates[child] = _mix(opinion, tree.estimates[child])
        best = estimates.topk(min(self._config.children, estimates.shape[-1]), dim=-1)
        confirmed = set()
        for node, tokens, values in zip(
            nodes, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            for token, estimate in zip(tokens, values, strict=True):
                if estimate == -math.inf:
                    break
                if (known := tree.child(node, token)) is not None:
                    confirmed.add(known)
                else:
                    tree.add(node, token, estimate, self.work.name)
        return confirmed


def _mix(opinion: float, guess: float) -> float:
    """The logarithm of the weighted mean of two probabilities, given as logarithms."""
    mixed = (1 - _GUESS_WEIGHT) * math.exp(opinion) + _GUESS_WEIGHT * math.exp(guess)
    return math.log(max(mixed, 1e-30))
