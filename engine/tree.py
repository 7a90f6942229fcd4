"""The token tree: what the drafter proposes and the target checks in one pass.

A tree of five nodes after the committed text "for i", whose root is the last committed token:

    0 i                       node    0  1  2  3  4
    ├── 1 in                  parent  -  0  1  1  0
    │   ├── 2 range           depth   0  1  2  2  1
    │   └── 3 enumerate
    └── 4 ,

The target scores all five at once under the ancestor mask: a node sees the committed text, its
ancestors and itself, never a sibling or a cousin (row = node, column = what it may see):

          0 1 2 3 4
        0 x . . . .
        1 x x . . .
        2 x x x . .
        3 x x . x .
        4 x . . . x

At node 0 the target may choose "in", at node 1 "enumerate", at node 3 "(": the accepted path is
1, 3 and "(" is the bonus token. Node index and depth differ off the spine (node 3 is at depth 2),
which is why nothing here may confuse the two.

Several texts that share a pass are one tree with several roots, one for each text.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Self


class TokenTree:
    """Tokens and parents, grown node by node; everything else is derived from them.

    Invariant: roots have no parent (-1), every other parent comes before its child, siblings
    differ. `texts[i]` is the number of node i's root among `roots`. `estimates[i]` is the log
    probability that the target, at i's parent, chooses i; a node's score (`scores()`) is the sum of
    the estimates along its path, its log reach probability. `origins[i]` names the stage that
    first proposed the node.
    """

    __slots__ = (
        *("_children", "depths", "estimates", "origins"),
        *("parents", "roots", "texts", "tokens"),
    )

    def __init__(self, *root_tokens: int) -> None:
        count = len(root_tokens)
        self.tokens = list(root_tokens)
        self.parents = [-1] * count
        self.depths = [0] * count
        self.texts = list(range(count))
        self.roots = list(range(count))
        self.estimates = [0.0] * count
        self.origins = [""] * count
        self._children: list[dict[int, int]] = [{} for _ in root_tokens]

    @classmethod
    def from_parents(cls, tokens: Sequence[int], parents: Sequence[int]) -> Self:
        """Build a tree from parallel lists, `parents[0]` ignored. Raises ValueError if invalid."""
        tree = cls(tokens[0])
        for token, parent in zip(tokens[1:], parents[1:], strict=True):
            size = len(tree)
            if tree.add(parent, token) != size:
                raise ValueError(f"siblings must differ: node {parent} has token {token} twice")
        return tree

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, estimate: float = 0.0, origin: str = "") -> int:
        """The node for `token` under `parent`: a new one, or the one that is there, unchanged."""
        node = len(self.tokens)
        if not 0 <= parent < node:
            raise ValueError(f"a parent must come before its child: {parent} is not below {node}")
        known = self._children[parent].setdefault(token, node)
        if known != node:
            return known
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.texts.append(self.texts[parent])
        self.estimates.append(estimate)
        self.origins.append(origin)
        self._children.append({})
        return node

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that holds `token`, if there is one."""
        return self._children[node].get(token)

    def children(self, node: int) -> list[int]:
        """The children of `node`, in the order in which they were proposed."""
        return list(self._children[node].values())

    def path(self, node: int) -> list[int]:
        """The nodes from just below the root down to `node`; empty for a root."""
        path = []
        while (parent := self.parents[node]) >= 0:
            path.append(node)
            node = parent
        return path[::-1]

    def path_tokens(self, node: int) -> list[int]:
        """The tokens from just below the root down to `node`."""
        return [self.tokens[i] for i in self.path(node)]

    def scores(self) -> list[float]:
        """The log reach probability of every node."""
        scores = [0.0] * len(self)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                scores[node] = scores[parent] + self.estimates[node]
        return scores

    def best(self, budget: int, below: Iterable[int] = (0,)) -> list[int]:
        """Of every text the at most `budget` best-scored nodes under any node of `below`.

        Ancestors come first. A parent never scores less than its child and comes before it, so
        with whatever lies between them and `below`, the chosen nodes form a tree.
        """
        scores, tops = self.scores(), set(below)
        inside = [False] * len(self)
        candidates: list[list[int]] = [[] for _ in self.roots]
        for node, parent in enumerate(self.parents):
            if parent >= 0 and (parent in tops or inside[parent]):
                inside[node] = True
                candidates[self.texts[node]].append(node)
        chosen = (
            heapq.nsmallest(budget, nodes, key=lambda node: (-scores[node], node))
            for nodes in candidates
        )
        return sorted(node for nodes in chosen for node in nodes)

    def prune(self, nodes: Iterable[int]) -> tuple[Self, list[int]]:
        """A new tree of the roots and these nodes, among which the parent of each must be.

        It is laid out text by text: a root, its nodes, the next root. With it comes what the number
        of each of its nodes is here.
        """
        places = sorted([*self.roots, *nodes], key=lambda node: (self.texts[node], node))
        pruned, place = type(self)(), {-1: -1}
        for new, node in enumerate(places):
            place[node] = new
            pruned.tokens.append(self.tokens[node])
            pruned.parents.append(parent := place[self.parents[node]])
            pruned.depths.append(self.depths[node])
            pruned.texts.append(self.texts[node])
            pruned.estimates.append(self.estimates[node])
            pruned.origins.append(self.origins[node])
            pruned._children.append({})
            if parent < 0:
                pruned.roots.append(new)
            else:
                pruned._children[parent][self.tokens[node]] = new
        return pruned, places

    def ancestor_mask(self, columns: Sequence[int]) -> list[int]:
        """What each of these nodes sees, itself and its ancestors: bit j stands for `columns[j]`.

        A node comes after those of its ancestors that are among them.
        """
        seen: dict[int, int] = {}
        for place, node in enumerate(columns):
            seen[node] = seen.get(self.parents[node], 0) | 1 << place
        return list(seen.values())


def bushy_tree(root_token: int, num_nodes: int) -> TokenTree:
    """A binary tree of so many nodes, for timing what a tree of that size costs."""
    tree = TokenTree(root_token)
    for node in range(1, num_nodes):
        tree.add((node - 1) // 2, node % 2)
    return tree
