"""Hypothesis strategies for the engine's nouns."""

from hypothesis import strategies as st

from engine.tree import TokenTree


@st.composite
def token_trees(draw: st.DrawFn, max_size: int = 24, vocab_size: int = 64) -> TokenTree:
    """Any valid tree, with estimates that make scores fall along every path."""
    tree = TokenTree(draw(st.integers(0, vocab_size - 1)))
    for _ in range(draw(st.integers(0, max_size - 1))):
        parent = draw(st.integers(0, len(tree) - 1))
        token = draw(st.integers(0, vocab_size - 1))
        tree.add(parent, token, -draw(st.floats(0.0, 4.0)), draw(st.sampled_from(["a", "b"])))
    return tree
