"""The accept rule against brute force over every path."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.accept import Acceptance
from engine.accept import accept as accept_all
from engine.tree import TokenTree
from tests.strategies import token_trees


def accept(tree: TokenTree, targets: Sequence[int]) -> Acceptance:
    """Of a tree with one root, by the target's token at every node."""
    (accepted,) = accept_all(tree, lambda nodes: [targets[node] for node in nodes])
    return accepted


def test_an_accepted_path_may_leave_the_spine() -> None:
    tree = TokenTree.from_parents([7, 1, 2, 3, 4], [-1, 0, 1, 1, 0])
    assert accept(tree, [1, 3, 0, 42, 0]) == Acceptance((1, 3), 42)


def test_it_sometimes_accepts_nothing_and_still_emits_a_token() -> None:
    assert accept(TokenTree(7), [5]) == Acceptance((), 5)
    assert accept(TokenTree.from_parents([7, 1], [-1, 0]), [2, 9]) == Acceptance((), 2)


def test_it_sometimes_accepts_everything_and_adds_a_bonus_token() -> None:
    chain = TokenTree.from_parents([7, 1, 2], [-1, 0, 1])
    assert accept(chain, [1, 2, 3]) == Acceptance((1, 2), 3)


@given(token_trees(vocab_size=4), st.data())
def test_it_is_the_longest_path_that_the_target_agrees_with(
    tree: TokenTree, data: st.DataObject
) -> None:
    size = len(tree)
    targets = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    paths = [tree.path(node) for node in range(size)]
    agreed = [
        path
        for path in paths
        if all(targets[tree.parents[node]] == tree.tokens[node] for node in path)
    ]
    longest = max(agreed, key=len)
    assert accept(tree, targets) == Acceptance(tuple(longest), targets[(longest or [0])[-1]])
