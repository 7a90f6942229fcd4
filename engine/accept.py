"""The accept rule: follow the target's own tokens for as long as the tree foresaw them."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.tree import TokenTree


class Acceptance(NamedTuple):
    """The accepted nodes, root excluded, and the target's token after them."""

    path: tuple[int, ...]
    bonus_token: int


def accept(tree: TokenTree, target_tokens: Sequence[int]) -> Acceptance:
    """Walk from the root while the target's token at a node is a child of it.

    `target_tokens[i]` is the token that the target chose at node `i`. The tokens emitted, those of
    the path and the bonus token, are what the target alone would have written: the tree decides
    how many of them come at once, and nothing else.
    """
    path = []
    node = 0
    while (child := tree.child(node, target_tokens[node])) is not None:
        path.append(child)
        node = child
    return Acceptance(tuple(path), target_tokens[node])
