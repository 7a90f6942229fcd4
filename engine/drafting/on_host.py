"""One draft pass, whose logits come to the host: there its nodes get their children."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.candidates import Candidates
from engine.choosing import candidates, places
from engine.config import ModelStageConfig
from engine.drafting.children import Children
from engine.drafting.frontier import Frontier
from engine.drafting.stage import Scored
from engine.scorer import TreeScorer
from engine.tree import TokenTree

_NEVER = -1e9
"""What a broken draft, whose logits are no numbers, says of a token: it is not to be drafted."""


class Expansion(NamedTuple):
    """The guesses that were confirmed, and how many of the passes allowed are used up.

    `scored` is what came of the nodes, where the host has seen it.
    """

    confirmed: set[int]
    num_passes: int
    scored: Scored | None = None


class Expander(Protocol):
    """Runs draft passes of one network."""

    def expand(self, frontier: Frontier, expanded: Sequence[int], most: int) -> Expansion:
        """Evaluate nodes that are open, and go on as it sees fit: children for each of them.

        `most` is the number of passes that it may run.
        """


@dataclass(frozen=True, slots=True)
class OnHost:
    """Runs one pass at a time. The network's vocabulary may be padded beyond `vocab_size`."""

    config: ModelStageConfig
    model: TreeScorer
    name: str
    vocab_size: int

    def expand(self, frontier: Frontier, expanded: Sequence[int], most: int) -> Expansion:
        """One draft pass over nodes, some of them guesses, then children for each of them."""
        started = time.perf_counter()
        step, turn = frontier.step, frontier.turn
        texts, tree = step.texts, step.tree
        nodes = frontier.with_ancestors(expanded)
        fed = {tree.texts[node] for node in nodes}
        num_rows = sum(self.model.num_missing(texts[text]) for text in fed) + len(nodes)
        before = self.model.num_passes
        logits = self.model.score(texts, tree, nodes)[:, : self.vocab_size]
        turn.num_passes += self.model.num_passes - before
        turn.evaluated.update(nodes)
        rows = [nodes.index(node) for node in expanded]
        numbers = logits[rows].nan_to_num_(_NEVER, posinf=-_NEVER, neginf=_NEVER)
        estimates = candidates(places(texts, tree, expanded), numbers).normalised()
        opinions = _opinions_of_guesses(tree, expanded, estimates)
        best = zip(expanded, *estimates.top(self.config.children), strict=True)
        children = Children(step, self.name)
        confirmed: set[int] = set()
        for node, tokens, values in best:
            confirmed |= children.put(node, tokens, values, opinions)
        turn.run(num_rows, (time.perf_counter() - started) * 1e3)
        return Expansion(confirmed, 1, Scored(texts, tree, nodes, logits))


def _opinions_of_guesses(
    tree: TokenTree, nodes: Sequence[int], estimates: Candidates
) -> dict[int, float]:
    """The network's log probability of every child that the nodes have already."""
    guessed = [(row, child) for row, node in enumerate(nodes) for child in tree.children(node)]
    if not guessed:
        return {}
    rows, children = zip(*guessed, strict=True)
    opinions = estimates.of(rows, [tree.tokens[child] for child in children])
    return dict(zip(children, opinions, strict=True))
