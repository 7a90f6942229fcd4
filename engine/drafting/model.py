"""The stage with a network, a draft model or a head: it grows the tree best-first, pass by pass.

Before each of its passes it asks the stage below for guesses; a guess that it would have made
itself is a level of the tree for which it needs no further pass.
"""

import heapq
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from engine.config import ModelStageConfig
from engine.drafting.base import Drafter, StageWork
from engine.drafting.growth import GUESS_WEIGHT, Found, Growth, Noise
from engine.kernels import triton_noise
from engine.passes import Record
from engine.sampling import Candidates
from engine.scorer import TreeScorer
from engine.text import Text
from engine.tree import TokenTree, bushy_tree

_log = logging.getLogger(__name__)
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
        self._growth: Growth | None = None
        self._may_grow = model.device.type == "cuda" and config.passes > 1

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text; the model keeps what it has in common with the last one."""
        self._prepare_growth()
        self._tree = None
        self._model.reset(prompt)
        self._below.reset(prompt)

    def observe(self, tokens: Sequence[int]) -> None:
        """Pass on what was committed; this stage reads it from the text when it next drafts."""
        self._below.observe(tokens)

    def grow(self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int) -> list[int]:
        """Expand the best nodes below `leaves` while a pass pays; recommend the best `budget`.

        A step in which no pass is expected to pay is left to the stage below, and so is a text that
        has outgrown the model's window.
        """
        self._max_depth = self._model.max_depth(text.tokens)
        backlog = self._backlog(text)
        if self._max_depth < 1 or not text.economy.may_draft(self.work.name, backlog):
            return self._below.grow(text, tree, leaves, min(budget, self._below.budget))
        if tree is not self._tree:
            self._model.rollback()
            self._tree, self._evaluated = tree, set()
        frontier = [leaf for leaf in leaves if self._is_open(text, tree, leaf)]
        for _ in range(self._config.passes):
            frontier = frontier or self._next_frontier(text, tree, leaves, budget)
            if not frontier:
                break
            guesses = self._below.grow(text, tree, frontier, self._below.budget)
            waiting = {*frontier, *(n for n in guesses if self._is_open(text, tree, n))}
            rows = text.economy.worth_evaluating(
                self.work.name, tree, list(waiting), self._backlog(text), budget
            )
            if not rows:
                break
            with self.work.timed():
                is_behind = self._model.read(text.tokens)
            if is_behind:  # a chunk a step: meanwhile the text goes on without this stage
                break
            if (growth := self._growth_over(text, tree, rows)) is not None:
                count = text.economy.worth_growing(self.work.name, growth.most_passes)
                self._evaluate_on_device(text, tree, rows, guesses, growth, count)
                break
            self._evaluate(text, tree, rows, guesses)
            frontier = []
        return tree.best(budget, below=leaves)

    def take_work(self) -> list[StageWork]:
        """This stage's work, then that of the stages below."""
        return [self.work.take(), *self._below.take_work()]

    def rehearsals(self, text: Text) -> Mapping[str, Callable[[int], object]]:
        """A pass of this stage's network, then those of the stages below."""

        def rehearse(num_rows: int) -> None:
            self._model.reset(text.tokens)
            self._tree, self._evaluated = None, set()
            tree, rows = bushy_tree(text.tokens[-1], num_rows), range(num_rows)
            if (growth := self._growth_over(text, tree, rows)) is not None:
                self._evaluate_on_device(text, tree, rows, [], growth, num_passes=0)
            else:
                self._evaluate(text, tree, rows, [])

        self._prepare_growth()
        return {self.work.name: rehearse, **self._below.rehearsals(text)}

    def grow_on_device(self, record: Record, noise: Noise) -> None:
        """From now on all passes after a tree's first are run on the device; see `growth`.

        Raises what `record` raises of what cannot be recorded.
        """
        self._growth = Growth(self._config, self._model, self._vocab_size, record, noise)

    def _prepare_growth(self) -> None:
        """Have later passes recorded once the first ones are, where that is of use."""
        if not self._may_grow or self._growth or not triton_noise.is_usable():
            return
        if (record := self._model.runner.recorder) is None:
            return
        try:
            self.grow_on_device(record, triton_noise.noise_of)
        except Exception as error:  # whatever a network may do that a graph cannot hold
            self._may_grow = False
            _log.warning("the %s goes back to the host for each pass: %s", self.work.name, error)

    def _growth_over(self, text: Text, tree: TokenTree, rows: Sequence[int]) -> Growth | None:
        """What goes on by itself after a pass over these nodes; None where the host has to."""
        if self._growth is None:
            return None
        is_fit = self._growth.fits(text, tree, self._with_ancestors(tree, rows))
        return self._growth if is_fit else None

    def _next_frontier(
        self, text: Text, tree: TokenTree, leaves: Sequence[int], budget: int
    ) -> list[int]:
        """The best nodes, of those now worth recommending, that the model has not evaluated."""
        scores = tree.scores()
        waiting = [
            node for node in tree.best(budget, below=leaves) if self._is_open(text, tree, node)
        ]
        return heapq.nlargest(self._config.width, waiting, key=scores.__getitem__)

    def _is_open(self, text: Text, tree: TokenTree, node: int) -> bool:
        """Whether the model has yet to say what comes after this node."""
        is_within_window = tree.depths[node] < self._max_depth
        return is_within_window and node not in self._evaluated and text.can_extend(tree, node)

    def _backlog(self, text: Text) -> int:
        """How many committed tokens the model has yet to read, the root not counted."""
        return max(0, len(text.tokens) - 1 - len(self._model.rows.tokens))

    def _evaluate(
        self, text: Text, tree: TokenTree, expanded: Sequence[int], guesses: Sequence[int]
    ) -> None:
        """One draft pass over nodes, some of them guesses, then children for each of them."""
        started = time.perf_counter()
        nodes = self._with_ancestors(tree, expanded)
        num_rows = self._backlog(text) + len(nodes)
        before = self._model.num_passes
        logits = self._model.score(text.tokens, tree, nodes)[:, : self._vocab_size]
        self.work.num_passes += self._model.num_passes - before
        self._evaluated.update(nodes)
        rows = [nodes.index(node) for node in expanded]
        positions = [text.root_position + tree.depths[node] + 1 for node in expanded]
        numbers = logits[rows].nan_to_num_(_NEVER, posinf=-_NEVER, neginf=_NEVER)
        estimates = text.sampler.candidates(numbers, positions).normalised()
        opinions = self._opinions_of_guesses(tree, expanded, estimates)
        best = zip(expanded, *estimates.top(self._config.children), strict=True)
        confirmed: set[int] = set()
        for node, tokens, values in best:
            confirmed |= self._expand(text, tree, node, tokens, values, opinions)
        milliseconds = self._account(started, guesses, confirmed)
        text.economy.spend(self.work.name, num_rows, milliseconds)

    def _evaluate_on_device(
        self,
        text: Text,
        tree: TokenTree,
        expanded: Sequence[int],
        guesses: Sequence[int],
        growth: Growth,
        num_passes: int,
    ) -> None:
        """The same, then so many passes on the device, for which nobody waits but at the end."""
        started = time.perf_counter()
        nodes = self._with_ancestors(tree, expanded)
        num_rows = self._backlog(text) + len(nodes)
        before = self._model.num_passes
        logits = self._model.score(text.tokens, tree, nodes)
        max_depth = min(text.max_depth, self._max_depth)
        kinds = [(self.work.name, rank, -_grade(-math.inf)) for rank in range(growth.children)]
        worths = [text.economy.worth(kind) for kind in kinds]
        found = growth.run(text, tree, nodes, expanded, logits, max_depth, worths, num_passes)
        confirmed, passes = self._adopt(text, tree, nodes, expanded, found)
        self.work.num_passes += self._model.num_passes - before
        milliseconds = self._account(started, guesses, confirmed)
        text.economy.spend_growing(self.work.name, num_rows, passes, milliseconds)

    def _account(self, started: float, guesses: Sequence[int], confirmed: set[int]) -> float:
        """Note what a pass made of the guesses below, and the milliseconds since it started."""
        self._below.work.num_guesses += len(guesses)
        self._below.work.num_confirmed += len(confirmed.intersection(guesses))
        milliseconds = (time.perf_counter() - started) * 1e3
        self.work.milliseconds += milliseconds
        return milliseconds

    def _adopt(
        self,
        text: Text,
        tree: TokenTree,
        nodes: Sequence[int],
        expanded: Sequence[int],
        found: Found,
    ) -> tuple[set[int], list[list[int]]]:
        """Put what the device found into the tree, row by row.

        Rows that the text is too unlikely to reach for any node to pay there get no children.
        Returns the guesses that it confirmed, and the nodes that each later pass evaluated.
        """
        own = dict(zip(nodes, found.opinions, strict=True))
        place = {node: row for row, node in enumerate(nodes)}
        confirmed: set[int] = set()
        for node in expanded:
            tokens, values = found.tokens[place[node]], found.values[place[node]]
            opinions = _opinions_of_children(tree, node, tokens, values, own)
            confirmed |= self._expand(text, tree, node, tokens, values, opinions)
        node_of, scores = dict(enumerate(nodes)), tree.scores()
        score_of = {row: scores[node] for row, node in node_of.items()}
        least = text.economy.prospects(0).least
        for row in found.rows:
            # If its parent has children, it is one of them.
            node = tree.add(node_of[row.parent], row.token, row.value, self.work.name)
            node_of[row.index] = node
            score_of[row.index] = score_of[row.parent] + tree.estimates[node]
            if math.exp(score_of[row.index]) >= least:
                opinions = _opinions_of_children(tree, node, row.tokens, row.values, {})
                confirmed |= self._expand(text, tree, node, row.tokens, row.values, opinions)
        places = [row.index for row in found.rows]
        evaluated = [node_of[place] for place in places]
        self._model.num_passes += len(found.passes)
        self._model.rows.add((), evaluated)
        if self._model.function.carry_size:
            # A copy: the device writes there again.
            self._model.rows.carried.update(zip(evaluated, found.carried[places], strict=True))
        self._evaluated.update(nodes, evaluated)
        return confirmed, [[node_of[row.index] for row in rows] for rows in found.passes]

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
        self,
        text: Text,
        tree: TokenTree,
        node: int,
        tokens: Sequence[int],
        values: Sequence[float],
        opinions: Mapping[int, float],
    ) -> set[int]:
        """Give a node its best children; returns those that the stage below had guessed.

        Their tokens and log probabilities are given, best first. Where a child is a guess, the
        model's opinion of it and the guesser's own are mixed: a guess that the model would not have
        made stays a candidate, if a doubtful one.
        """
        guesses = {child: tree.estimates[child] for child in tree.children(node)}
        surest = max(guesses.values(), default=-math.inf)
        likelihood = math.exp(tree.estimates[node]) if node else 1.0
        text.economy.put(self.work.name, node, likelihood, tokens)
        ranks: dict[int, int] = {}
        for rank, (token, opinion) in enumerate(zip(tokens, values, strict=True)):
            if opinion == -math.inf:
                break
            child = tree.child(node, token)
            if child is not None:
                ranks[child] = rank
                continue
            kind = (self.work.name, rank, -_grade(surest))
            estimate = text.economy.believe(node, token, kind, opinion)
            tree.add(node, token, estimate, self.work.name)
        for child, guess in guesses.items():
            kind = (self.work.name, ranks.get(child, len(tokens)), _grade(guess))
            claim = _mix(opinions[child], guess)
            tree.estimates[child] = text.economy.believe(node, tree.tokens[child], kind, claim)
        return set(ranks)

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
    mixed = (1 - GUESS_WEIGHT) * math.exp(opinion) + GUESS_WEIGHT * math.exp(guess)
    return math.log(max(mixed, 1e-30))


def _opinions_of_children(
    tree: TokenTree,
    node: int,
    tokens: Sequence[int],
    values: Sequence[float],
    known: Mapping[int, float],
) -> dict[int, float]:
    """The model's log probability of every child that a node has already.

    From the tokens that it lists there, or from what is known of some nodes; of others it thinks
    nothing.
    """
    if not (children := tree.children(node)):
        return {}
    listed = dict(zip(tokens, values, strict=True))
    return {
        child: listed.get(tree.tokens[child], known.get(child, -math.inf)) for child in children
    }


def _grade(estimate: float) -> int:
    """How sure a guess is: 0 for none, then doubtful, likely, sure."""
    return (estimate > -math.inf) + (estimate > _LIKELY) + (estimate > _SURE)
