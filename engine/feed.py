"""What one forward pass feeds: tokens, positions, rows of the cache, and who sees whom."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.geometry import MAX_WIDTH, NUM_BYTES
from engine.passes import PassInputs
from engine.tree import TokenTree, bushy_tree


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass feeds: committed tokens from index `start` on, then nodes of a tree.

    `earlier` are the tree's nodes that have their rows already; the root's index is `root`.
    """

    start: int
    pending: Sequence[int]
    tree: TokenTree
    nodes: Sequence[int]
    earlier: Sequence[int]

    @property
    def root(self) -> int:
        """The index of the tree's root in the text."""
        return self.start + len(self.pending)

    @property
    def end(self) -> int:
        """Where the rows of the cache end that the pass reads or writes."""
        return self.root + len(self.earlier) + len(self.nodes)

    @property
    def ids(self) -> list[int]:
        """Token ids, a row each."""
        return [*self.pending, *(self.tree.tokens[node] for node in self.nodes)]

    @property
    def positions(self) -> list[int]:
        """The place of every row in the text: for nodes by depth, not by index."""
        depths = (self.tree.depths[node] for node in self.nodes)
        return [*range(self.start, self.root), *(self.root + depth for depth in depths)]

    def inputs(
        self, padding: Sequence[int], slots: Sequence[int], window: int, place: int
    ) -> PassInputs:
        """The pass's rows for the cache's rows `slots`, after rows that are there to fill it up.

        Those go to the slots `padding`, where nobody looks, are at position `place`, and see the
        pass's first row. `window` is that of sliding layers, 0 for none.
        """
        ids = [*[0] * len(padding), *self.ids]
        positions = [*[place] * len(padding), *self.positions]
        numbers = torch.tensor([*ids, *positions, *padding, *slots, self.start])
        visible, windowed = self._sight(positions, len(padding), window)
        return PassInputs(numbers[:-1].view(3, -1), numbers[-1:], visible, windowed)

    def _sight(
        self, positions: Sequence[int], num_padding: int, window: int
    ) -> tuple[Tensor, Tensor]:
        """What each row sees behind the rows that all see, in all layers and in windowed ones.

        Committed rows before it, its ancestors, itself; as bits (rows, bytes).
        """
        num_pending, columns = len(self.pending), [*self.earlier, *self.nodes]
        all_pending = (1 << num_pending) - 1
        seen = [1] * num_padding + [(2 << row) - 1 for row in range(num_pending)]
        for ancestors in self.tree.ancestor_mask(columns)[len(self.earlier) :]:
            seen.append(ancestors << num_pending | all_pending)
        visible = packed(seen, (num_pending + len(columns) + 7) // 8)
        if not 0 < window <= max(positions) - self.start:
            return visible, visible
        depths = (self.root + self.tree.depths[node] for node in columns)
        behind = np.array([*range(self.start, self.root), *depths])
        is_near = np.array(positions)[:, None] - behind[None, :] < window
        is_near[:num_padding, 0] = True
        near = np.packbits(is_near, axis=1, bitorder="little")
        windowed = torch.zeros_like(visible)
        windowed[:, : near.shape[1]] = torch.from_numpy(near)
        return visible, windowed & visible


def packed(rows: Sequence[int], num_bytes: int = 0) -> Tensor:
    """Sets of small numbers as bits, the lowest first: uint8 of (rows, NUM_BYTES or more)."""
    num_bytes = max(num_bytes, NUM_BYTES)
    bits = bytearray().join(row.to_bytes(num_bytes, "little") for row in rows)
    return torch.frombuffer(bits, dtype=torch.uint8).view(len(rows), num_bytes)


def example(width: int, end: int, limits: tuple[int, int, int]) -> PassInputs:
    """Inputs that mean nothing: the first nodes of a tree whose rows end at row `end`.

    `limits` are the sizes of the vocabulary, of a text and of a window (0: none); a position beyond
    the text is its last.
    """
    vocab_size, max_positions, window = limits
    start = end - MAX_WIDTH
    feed = Pass(start, [], bushy_tree(0, MAX_WIDTH), range(width), ())
    inputs = feed.inputs([], range(start, start + width), window, start)
    inputs.tokens[0] = 7 * torch.arange(width) % vocab_size
    inputs.tokens[1].clamp_(max=max_positions - 1)
    # No tensor twice: a compiler would take two inputs that are one for one input.
    return inputs._replace(windowed=inputs.windowed.clone())
