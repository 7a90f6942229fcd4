"""Several texts are one tree with several roots: what is told of each is what it is alone."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.accept import accept
from engine.tree import TokenTree
from tests.strategies import token_trees

forests = st.lists(token_trees(max_size=12, vocab_size=6), min_size=1, max_size=4)


def joined(trees: Sequence[TokenTree]) -> tuple[TokenTree, list[list[int]]]:
    """One tree of these, grown by turns, and where each one's nodes are in it."""
    forest = TokenTree(*[tree.tokens[0] for tree in trees])
    places = [[root] for root in forest.roots]
    for node in range(1, max(map(len, trees))):
        for tree, place in zip(trees, places, strict=True):
            if node < len(tree):
                parent = place[tree.parents[node]]
                place.append(forest.add(parent, tree.tokens[node], tree.estimates[node], "x"))
    return forest, places


@given(forests, st.integers(0, 12))
def test_the_best_nodes_of_each_text_are_those_of_its_own_tree(
    trees: list[TokenTree], budget: int
) -> None:
    forest, places = joined(trees)
    best = forest.best(budget, below=forest.roots)
    for text, (tree, place) in enumerate(zip(trees, places, strict=True)):
        own = [node for node in best if forest.texts[node] == text]
        scores, alone = forest.scores(), tree.scores()
        expected = sorted(alone[node] for node in tree.best(budget))
        assert sorted(scores[node] for node in own) == expected
        assert set(own) <= set(place)


@given(forests, st.integers(0, 12))
def test_a_pruned_forest_lies_text_by_text(trees: list[TokenTree], budget: int) -> None:
    """So row i of a pass is node i, and a text's rows lie together."""
    forest, _ = joined(trees)
    pruned, places = forest.prune(forest.best(budget, below=forest.roots))
    assert pruned.texts == sorted(pruned.texts)
    assert [pruned.texts[root] for root in pruned.roots] == list(range(len(trees)))
    for node, place in enumerate(places):
        assert pruned.path_tokens(node) == forest.path_tokens(place)
        assert pruned.depths[node] == forest.depths[place]
        assert pruned.origins[node] == forest.origins[place]


@given(forests, st.data())
def test_each_text_accepts_what_it_would_alone(trees: list[TokenTree], data: st.DataObject) -> None:
    targets = [
        data.draw(st.lists(st.integers(0, 5), min_size=len(tree), max_size=len(tree)))
        for tree in trees
    ]
    forest, places = joined(trees)
    token_at = {
        node: token
        for place, tokens in zip(places, targets, strict=True)
        for node, token in zip(place, tokens, strict=True)
    }
    together = accept(forest, lambda nodes: [token_at[node] for node in nodes])
    for tree, place, tokens, found in zip(trees, places, targets, together, strict=True):
        (alone,) = accept(tree, lambda nodes, own=tokens: [own[node] for node in nodes])  # type: ignore[misc]
        assert found.bonus_token == alone.bonus_token
        assert found.path == tuple(place[node] for node in alone.path)
