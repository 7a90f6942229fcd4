"""The accept rule: follow the target's own tokens for as long as the tree foresaw them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.request import TARGET
from engine.tree import TokenTree


class Acceptance(NamedTuple):
    """The accepted nodes, root excluded, and the target's token after them."""

    path: tuple[int, ...]
    bonus_token: int

    def tokens(self, tree: TokenTree) -> list[int]:
        """What the step emits: a token after the root and after each accepted node."""
        return [*[tree.tokens[node] for node in self.path], self.bonus_token]

    def origins(self, tree: TokenTree) -> list[str]:
        """Who proposed each of them; nobody but the target the last."""
        return [*[tree.origins[node] for node in self.path], TARGET]


def accept(tree: TokenTree, choose: Callable[[Sequence[int]], Sequence[int]]) -> list[Acceptance]:
    """Walk from every root while the target's token at a node is a child of it.

    `choose(nodes)` are the tokens that the target chooses after these nodes, at most one of each
    text; only nodes of the paths are asked for. The tokens emitted, those of a path and the bonus
    token, are what the target alone would have written: the tree decides how many of them come at
    once, and nothing else.
    """
    paths: list[list[int]] = [[] for _ in tree.roots]
    bonus = [0] * len(paths)
    walking = tree.roots
    while walking:
        reached: list[int] = []
        for node, token in zip(walking, choose(walking), strict=True):
            if (child := tree.child(node, token)) is None:
                bonus[tree.texts[node]] = token
            else:
                paths[tree.texts[node]].append(child)
                reached.append(child)
        walking = reached
    return [Acceptance(tuple(path), token) for path, token in zip(paths, bonus, strict=True)]
