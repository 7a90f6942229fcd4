"""The tree of a text as a step verified it, as the noun that leaves the engine."""

from collections.abc import Mapping
from itertools import islice, pairwise
from math import exp

from engine.accept import Acceptance
from engine.stats import MAX_TRACED_NODES, StepTrace
from engine.tree import TokenTree


def trace_of(
    tree: TokenTree,
    text: int,
    accepted: Acceptance,
    milliseconds: float,
    laps: Mapping[str, float],
) -> StepTrace:
    """The part of the tree that hangs on the root of `text`, renumbered from 0.

    `tree` is laid out text by text. Milliseconds are the whole step's, and its laps of "growing",
    "scoring" and "choosing".
    """
    ends = [*tree.roots, len(tree)]
    root, end = ends[text], ends[text + 1]
    # Whoever leaves nodes out keeps the path; the first of the others have their parents with them.
    path = accepted.path[: MAX_TRACED_NODES - 1]
    on_path = frozenset(path)
    others = (node for node in range(root + 1, end) if node not in on_path)
    nodes = [root, *sorted([*path, *islice(others, MAX_TRACED_NODES - 1 - len(path))])]
    places = {node: place for place, node in enumerate(nodes)}
    return StepTrace(
        tokens=tuple([tree.tokens[node] for node in nodes]),
        parents=tuple([places.get(tree.parents[node], -1) for node in nodes]),
        origins=tuple([tree.origins[node] for node in nodes]),
        estimates=tuple([exp(tree.estimates[node]) for node in nodes]),
        path=tuple([places[node] for node in path]),
        bonus_token=accepted.bonus_token,
        text=text,
        nodes_by_text=tuple([after - first for first, after in pairwise(ends)]),
        milliseconds=milliseconds,
        growing_milliseconds=laps["growing"],
        scoring_milliseconds=laps["scoring"],
        choosing_milliseconds=laps["choosing"],
    )
