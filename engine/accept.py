"""The accept rule: follow the target's own tokens for as long as the tree foresaw them."""

from collections.abc import Callable
from typing import NamedTuple

from engine.request import TARGET
from engine.tree import TokenTree


class Acceptance(NamedTuple):
    """The accepted nodes, root excluded, and the target's token after them."""

    path: tuple[int, ...]
    bonus_token: int

    def tokens(self, tree: TokenTree) -> list[int]:
        """What the step emits: a token after the root and after each accepted node."""
        return [*(tree.tokens[node] for node in self.path), self.bonus_token]

    def origins(self, tree: TokenTree) -> list[str]:
        """Who proposed each of them; nobody but the target the last."""
        return [*(tree.origins[node] for node in self.path), TARGET]


def accept(tree: TokenTree, choose: Callable[[int], int]) -> Acceptance:
    """Walk from the root while the target's token at a node is a child of it.

    `choose(node)` is the token that the target chooses after a node; only nodes of the path are
    asked for. The tokens emitted, those of the path and the bonus token, are what the target alone
    would have written: the tree decides how many of them come at once, and nothing else.
    """
    path: list[int] = []
    node = 0
    while (child := tree.child(node, token := choose(node))) is not None:
        path.append(child)
        node = child
    return Acceptance(tuple(path), token)
