"""The token tree: masks, paths and pruning, for any valid tree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tree import TokenTree
from tests.strategies import token_trees


def mask_of(tree: TokenTree) -> np.ndarray:
    """Row by row what a node sees, column by column: (nodes, nodes)."""
    return unpacked(tree.ancestor_mask(range(len(tree))), len(tree))


def unpacked(rows: list[int], num_columns: int) -> np.ndarray:
    return np.array([[row >> column & 1 for column in range(num_columns)] for row in rows], bool)


def test_the_worked_example_of_the_docstring_holds() -> None:
    tree = TokenTree.from_parents([7, 1, 2, 3, 4], [-1, 0, 1, 1, 0])
    expected = ["x....", "xx...", "xxx..", "xx.x.", "x...x"]
    assert ["".join("x" if seen else "." for seen in row) for row in mask_of(tree)] == expected
    assert tree.depths == [0, 1, 2, 2, 1]
    assert tree.path(3) == [1, 3]
    assert tree.path_tokens(3) == [1, 3]
    assert tree.child(1, 3) == 3
    assert tree.child(0, 3) is None
    assert tree.children(1) == [2, 3]


@given(token_trees())
def test_a_node_sees_its_ancestors_and_itself_and_nothing_else(tree: TokenTree) -> None:
    mask = mask_of(tree)
    assert (mask.sum(axis=1) == np.array(tree.depths) + 1).all()
    assert mask[:, 0].all()
    for node in range(len(tree)):
        assert set(np.flatnonzero(mask[node])) == {0, *tree.path(node)}


@given(token_trees())
def test_the_parents_can_be_read_back_from_the_mask(tree: TokenTree) -> None:
    mask = mask_of(tree)
    for node in range(1, len(tree)):
        ancestors = np.flatnonzero(mask[node])
        assert max(set(ancestors) - {node}) == tree.parents[node] < node


def test_a_chains_mask_is_lower_triangular() -> None:
    chain = TokenTree.from_parents([5, 5, 5, 5], [-1, 0, 1, 2])
    assert (mask_of(chain) == np.tri(4, dtype=bool)).all()


@given(token_trees(), st.data())
def test_columns_may_come_in_any_order_that_puts_ancestors_first(
    tree: TokenTree, data: st.DataObject
) -> None:
    """As passes over one tree score its nodes."""
    order = sorted(range(len(tree)), key=data.draw(st.permutations(range(len(tree)))).index)
    columns = sorted(order, key=lambda node: tree.depths[node])
    part = unpacked(tree.ancestor_mask(columns), len(columns))
    assert (part == mask_of(tree)[np.ix_(columns, columns)]).all()


@given(token_trees())
def test_adding_a_token_twice_under_a_parent_gives_the_same_node(tree: TokenTree) -> None:
    size = len(tree)
    for node in range(1, size):
        estimate = tree.estimates[node]
        assert tree.add(tree.parents[node], tree.tokens[node], -9.0, "other") == node
        assert tree.estimates[node] == estimate
    assert len(tree) == size


def test_a_parent_must_exist_and_siblings_must_differ() -> None:
    with pytest.raises(ValueError, match="before its child"):
        TokenTree(1).add(1, 2)
    with pytest.raises(ValueError, match="siblings must differ"):
        TokenTree.from_parents([1, 2, 2], [-1, 0, 0])


@given(token_trees(), st.integers(1, 30))
def test_the_best_nodes_form_a_tree_and_no_other_scores_higher(
    tree: TokenTree, budget: int
) -> None:
    best = tree.best(budget)
    scores = tree.scores()
    assert len(best) == min(budget, len(tree) - 1)
    assert all(tree.parents[node] in {0, *best} for node in best)
    left = [scores[node] for node in range(1, len(tree)) if node not in best]
    assert not left or max(left) <= min(scores[node] for node in best)


@given(token_trees(), st.integers(1, 30), st.data())
def test_the_best_nodes_below_some_leaves_lie_below_them(
    tree: TokenTree, budget: int, data: st.DataObject
) -> None:
    below = data.draw(st.sets(st.integers(0, len(tree) - 1), min_size=1))
    best = tree.best(budget, below)
    descendants = {n for n in range(1, len(tree)) if below & {0, *tree.path(n)} - {n}}
    assert set(best) <= descendants
    assert len(best) == min(budget, len(descendants))


@given(token_trees(), st.integers(0, 30))
def test_pruning_keeps_tokens_paths_estimates_and_origins(tree: TokenTree, budget: int) -> None:
    best = tree.best(budget)
    pruned, places = tree.prune(best)
    assert places == [0, *best]
    assert len(pruned) == len(best) + 1
    for place, node in enumerate(best, start=1):
        assert pruned.path_tokens(place) == tree.path_tokens(node)
        assert pruned.estimates[place] == tree.estimates[node]
        assert pruned.origins[place] == tree.origins[node]
