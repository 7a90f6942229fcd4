"""The stage with a network, a draft model or a head: it grows the tree best-first, pass by pass.

Before each of its passes it asks the stage below for guesses; a guess that it would have made
itself is a level of the tree for which it needs no further pass.
"""

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence

from engine.config import ModelStageConfig
from engine.drafting.base import Context, Drafter, StageWork
from engine.sampling import Candidates
from engine.scorer import TreeScorer
from engine.tree import TokenTree, bushy_tree

_GUESS_WEIGHT = 0.15
"""How far the stage below is believed about its own guess, against this model's opinion of it.

Only until the economy has seen how such guesses fare.
"""
_NEVER = -1e9
"""What a broken draft, whose logits are no numbers, says of a token: it is not to be drafted."""
_LIKELY, _SURE = math.log(0.25), math.log(0.75)


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
        """Expand the best nodes below `leaves` while a pass pays; recommend the best `budget`.

        A text that has outgrown the model's window is left to the stage below.
        """
        self._max_depth = self._model.max_depth(context.tokens)
        if self._max_depth < 1:
            return self._below.grow(context, tree, leaves, budget)
        if tree is not self._tree:
            self._model.rollback()
            self._tree, self._evaluated = tree, set()
        frontier = [leaf for leaf in leaves if self._is_open(context, tree, leaf)]
        for _ in range(self._config.passes):
            frontier = frontier or self._next_frontier(context, tree, leaves, budget)
            if not frontier:
                break
            guesses = self._below.grow(context, tree, frontier, self._below.budget)
            waiting = {*frontier, *(n for n in guesses if self._is_open(context, tree, n))}
            rows = context.economy.worth_evaluating(
                self.work.name, tree, list(waiting), self._backlog(context), budget
            )
            if not rows:
                break
            with self.work.timed():
                if not self._model.catch_up(context.tokens, context.is_cancelled):
                    return []
            self._evaluate(context, tree, rows, guesses)
            frontier = []
        return tree.best(budget, below=leaves)

    def take_work(self) -> list[StageWork]:
        """This stage's work, then that of the stages below."""
        return [self.work.take(), *self._below.take_work()]

    def rehearsals(self, context: Context) -> Mapping[str, Callable[[int], object]]:
        """A pass of this stage's network, then those of the stages below."""

        def rehearse(num_rows: int) -> None:
            self._model.reset(context.tokens)
            self._tree, self._evaluated = None, set()
            self._evaluate(context, bushy_tree(context.tokens[-1], num_rows), range(num_rows), [])

        return {self.work.name: rehearse, **self._below.rehearsals(context)}

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

    def _backlog(self, context: Context) -> int:
        """How many committed tokens the model has yet to read, the root not counted."""
        return max(0, len(context.tokens) - 1 - len(self._model.tokens))

    def _evaluate(
        self, context: Context, tree: TokenTree, expanded: Sequence[int], guesses: Sequence[int]
    ) -> None:
        """One draft pass over nodes, some of them guesses, then children for each of them."""
        started = time.perf_counter()
        nodes = self._with_ancestors(tree, expanded)
        num_rows = self._backlog(context) + len(nodes)
        before = self._model.num_passes
        logits = self._model.score(context.tokens, tree, nodes)[:, : self._vocab_size]
        self.work.num_passes += self._model.num_passes - before
        self._evaluated.update(nodes)
        rows = [nodes.index(node) for node in expanded]
        positions = [context.root_position + tree.depths[node] + 1 for node in expanded]
        numbers = logits[rows].nan_to_num_(_NEVER, posinf=-_NEVER, neginf=_NEVER)
        candidates = context.sampler.candidates(numbers, positions)
        confirmed = self._expand(context, tree, expanded, candidates.normalised())
        self._below.work.num_guesses += len(guesses)
        self._below.work.num_confirmed += len(confirmed.intersection(guesses))
        milliseconds = (time.perf_counter() - started) * 1e3
        self.work.milliseconds += milliseconds
        context.economy.spend(self.work.name, num_rows, milliseconds)

    def _with_ancestors(self, tree: TokenTree, nodes: Sequence[int]) -> list[int]:
        """The nodes and those of their ancestors that the model has yet to evaluate, in order."""
        needed: set[int] = set()
        for start in nodes:
            node = start
            while node >= 0 and node not in needed and node not in self._evaluated:
                needed.add(node)
                node = tree.parents[node]
        return sorted(needed)

    def _expand(
        self, context: Context, tree: TokenTree, nodes: Sequence[int], estimates: Candidates
    ) -> set[int]:
        """Give every node its best children; returns those that the stage below had guessed.

        Where a child is a guess, the model's opinion of it and the guesser's own are mixed: a guess
        that the model would not have made stays a candidate, if a doubtful one.
        """
        best = estimates.top(self._config.children)
        opinions = self._opinions_of_guesses(tree, nodes, estimates)
        confirmed: set[int] = set()
        for node, tokens, values in zip(nodes, *best, strict=True):
            guesses = {child: tree.estimates[child] for child in tree.children(node)}
            surest = max(guesses.values(), default=-math.inf)
            likelihood = math.exp(tree.estimates[node]) if node else 1.0
            context.economy.put(self.work.name, node, likelihood, tokens)
            ranks: dict[int, int] = {}
            for rank, (token, opinion) in enumerate(zip(tokens, values, strict=True)):
                if opinion == -math.inf:
                    break
                child = tree.child(node, token)
                if child is not None:
                    ranks[child] = rank
                    continue
                kind = (self.work.name, rank, -_grade(surest))
                estimate = context.economy.believe(node, token, kind, opinion)
                tree.add(node, token, estimate, self.work.name)
            for child, guess in guesses.items():
                rank = ranks.get(child, len(tokens))
                kind = (self.work.name, rank, _grade(guess))
                claim = _mix(opinions[child], guess)
                tree.estimates[child] = context.economy.believe(
                    node, tree.tokens[child], kind, claim
                )
            confirmed.update(ranks)
        return confirmed

    def _opinions_of_guesses(
        self, tree: TokenTree, nodes: Sequence[int], estimates: Candidates
    ) -> dict[int, float]:
        """The model's log probability of every child that the nodes have already."""
        guessed = [(row, child) for row, node in enumerate(nodes) for child in tree.children(node)]
        if not guessed:
            return {}
        rows, children = zip(*guessed, strict=True)
        opinions = estimates.of(rows, [tree.tokens[child] for child in children])
        return dict(zip(children, opinions, strict=True))


def _mix(opinion: float, guess: float) -> float:
    """The logarithm of the weighted mean of two probabilities, given as logarithms."""
    mixed = (1 - _GUESS_WEIGHT) * math.exp(opinion) + _GUESS_WEIGHT * math.exp(guess)
    return math.log(max(mixed, 1e-30))


def _grade(estimate: float) -> int:
    """How sure a guess is: 0 for none, then doubtful, likely, sure."""
    return (estimate > -math.inf) + (estimate > _LIKELY) + (estimate > _SURE)
