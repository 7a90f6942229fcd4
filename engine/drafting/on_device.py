"""Draft passes that follow one another on a device, put into the tree when they are over."""

import math
import time
from collections.abc import Sequence

from engine.drafting.children import Children, claim_kind
from engine.drafting.device_passes import DevicePasses, Found, Noise
from engine.drafting.frontier import Frontier
from engine.drafting.on_host import Expander, Expansion, OnHost
from engine.passes import Record

__all__ = ["Noise", "OnDevice"]


class OnDevice(Expander):
    """Runs a first pass as `host` would, and as many behind it as pay without the host.

    Where passes cannot go on by themselves it leaves them to `host`.
    """

    def __init__(self, host: OnHost, record: Record, noise: Noise) -> None:
        self._host, self._model, self._name = host, host.model, host.name
        self._passes = DevicePasses(host.config, host.model, host.vocab_size, record, noise)

    def expand(self, frontier: Frontier, expanded: Sequence[int], most: int) -> Expansion:
        """Evaluate nodes and what is best below them; nobody waits for a pass but at the end."""
        started = time.perf_counter()
        step, turn, text = frontier.step, frontier.turn, frontier.step.text
        nodes = frontier.with_ancestors(expanded)
        if not self._passes.fits(step, nodes):
            return self._host.expand(frontier, expanded, most)
        count = turn.num_to_go_on(min(most - 1, self._passes.most_passes))
        num_rows = self._model.rows.num_missing(text.tokens) + len(nodes)
        before = self._model.num_passes
        logits = self._model.score(text.tokens, step.tree, nodes)
        max_depth = min(step.max_depth, frontier.max_depth)
        kinds = [claim_kind(self._name, rank) for rank in range(self._passes.children)]
        worths = [step.claims.worth(kind) for kind in kinds]
        found = self._passes.run(step, nodes, expanded, logits, max_depth, worths, count)
        confirmed, passes = self._put(frontier, nodes, expanded, found)
        turn.num_passes += self._model.num_passes - before
        turn.run(num_rows, (time.perf_counter() - started) * 1e3, passes)
        return Expansion(confirmed, most)

    def _put(
        self, frontier: Frontier, nodes: Sequence[int], expanded: Sequence[int], found: Found
    ) -> tuple[set[int], list[list[int]]]:
        """Put what the device found into the tree, row by row.

        Rows that the text is too unlikely to reach for any node to pay there get no children.
        Returns the guesses that it confirmed, and the nodes that each later pass evaluated.
        """
        step, tree = frontier.step, frontier.step.tree
        children = Children(step, self._name)
        own = dict(zip(nodes, found.opinions, strict=True))
        place = {node: row for row, node in enumerate(nodes)}
        confirmed: set[int] = set()
        for node in expanded:
            tokens, values = found.tokens[place[node]], found.values[place[node]]
            opinions = children.opinions(node, tokens, values, own)
            confirmed |= children.put(node, tokens, values, opinions)
        node_of, scores = dict(enumerate(nodes)), tree.scores()
        score_of = {row: scores[node] for row, node in node_of.items()}
        least = step.prospects(0).least
        for row in found.rows:
            # If its parent has children, it is one of them.
            node = tree.add(node_of[row.parent], row.token, row.value, self._name)
            node_of[row.index] = node
            score_of[row.index] = score_of[row.parent] + tree.estimates[node]
            if math.exp(score_of[row.index]) >= least:
                opinions = children.opinions(node, row.tokens, row.values, {})
                confirmed |= children.put(node, row.tokens, row.values, opinions)
        places = [row.index for row in found.rows]
        evaluated = [node_of[place] for place in places]
        rows = self._model.rows
        self._model.num_passes += len(found.passes)
        rows.add((), evaluated)
        if self._model.function.carry_size:
            # A copy: the device writes there again.
            rows.carried.update(zip(evaluated, found.carried[places], strict=True))
        frontier.turn.evaluated.update(nodes, evaluated)
        return confirmed, [[node_of[row.index] for row in rows] for rows in found.passes]
