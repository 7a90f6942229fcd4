"""What one forward pass feeds: a part for each of its texts, which says who sees whom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.geometry import MAX_WIDTH, NUM_BYTES, SPARE_ROWS
from engine.masks import Extent
from engine.passes import Example, PassInputs
from engine.rows import Rows
from engine.tree import TokenTree, bushy_tree

_FIRST = 3
"""Where the text of an example begins, or a mistake about that would not show."""


class Part(NamedTuple):
    """One text's share of a pass: ids and positions of its next rows, and what each of them sees.

    That are all rows of committed tokens and, behind these, row j if bit j of the row's `sight` is
    set. The first of the rows are `pending` tokens, the last are `nodes` of `tree`.
    """

    rows: Rows
    ids: Sequence[int]
    positions: Sequence[int]
    sight: Sequence[int]
    tree: TokenTree
    nodes: Sequence[int] = ()
    pending: Sequence[int] = ()

    @classmethod
    def of_text(
        cls, rows: Rows, pending: Sequence[int], tree: TokenTree, nodes: Sequence[int]
    ) -> Self:
        """Committed tokens, each of which sees those before it, then nodes, their ancestors.

        The first of the tokens is the first that has no row; the root of the tree follows the last.
        Raises ValueError for tokens behind a tree's rows.
        """
        if pending and rows.nodes:
            raise ValueError("committed tokens cannot follow a tree's rows: roll back first")
        start, num_pending = rows.prefix - rows.first, len(pending)
        root, depths, tokens = start + num_pending, tree.depths, tree.tokens
        ids = [tokens[node] for node in nodes]
        positions = [root + depths[node] for node in nodes]
        sight = tree.ancestor_mask([*rows.nodes, *nodes])[len(rows.nodes) :]
        if pending:
            everybody = (1 << num_pending) - 1
            causal = [(2 << row) - 1 for row in range(num_pending)]
            ids = [*pending, *ids]
            positions = [*range(start, root), *positions]
            sight = [*causal, *[ancestors << num_pending | everybody for ancestors in sight]]
        return cls(rows, ids, positions, sight, tree, nodes, pending)

    @classmethod
    def padding(cls, rows: Rows, num_rows: int, position: int) -> Self:
        """Rows that nobody reads, each of which sees itself, at one position of an empty text."""
        sight = [1 << row for row in range(num_rows)]
        return cls(rows, [0] * num_rows, [position] * num_rows, sight, TokenTree(0))

    @property
    def slots(self) -> range:
        """The rows of the cache that are written. Raises ValueError if there are not so many."""
        return self.rows.slots(len(self.ids))

    @property
    def extent(self) -> Extent:
        """How many rows there are, and which part of the cache they read."""
        num_rows, rows = len(self.ids), self.rows
        return Extent(num_rows, rows.first, rows.prefix + len(rows.nodes) + num_rows)

    def near(self, window: int) -> NDArray[np.bool_] | None:
        """Which columns are less than a window before each row; None if all are."""
        start = self.rows.prefix - self.rows.first
        if not 0 < window <= max(self.positions) - start:
            return None
        earlier = [start + self.tree.depths[node] for node in self.rows.nodes]
        behind = np.array([*earlier, *self.positions])
        is_near: NDArray[np.bool_] = np.array(self.positions)[:, None] - behind < window
        return is_near


def join(parts: Sequence[Part], window: int = 0) -> PassInputs:
    """The inputs of a pass over all these rows, of which nodes are scored.

    `window` is that of sliding layers, 0 for none.
    """
    # One list of them all: to make an array costs more than to fill it.
    ids: list[int] = []
    slots: list[int] = []
    positions: list[int] = []
    firsts: list[int] = []
    prefixes: list[int] = []
    sight: list[int] = []
    scored: list[int] = []
    num_columns = 0
    for rows, own, places, seen, _, nodes, _ in parts:
        num_rows = len(own)
        num_behind = len(rows.nodes) + num_rows
        ids += own
        slots += rows.slots(num_rows)
        positions += places
        firsts += [rows.first] * num_rows
        prefixes += [rows.prefix] * num_rows
        sight += seen
        scored += range(len(ids) - len(nodes), len(ids))
        if num_behind > num_columns:
            num_columns = num_behind
    numbers = torch.from_numpy(np.array(ids + slots + positions + firsts + prefixes + scored))
    visible = packed(sight, (num_columns + 7) // 8)
    windowed = _windowed(parts, visible, window) if window else visible
    end = 5 * len(ids)
    return PassInputs(numbers[:end].view(5, -1), visible, windowed, numbers[end:])


def _windowed(parts: Sequence[Part], visible: Tensor, window: int) -> Tensor:
    """What of `visible` is in a window: `visible` itself if everything is."""
    near = [part.near(window) for part in parts]
    if not any(each is not None for each in near):
        return visible
    windowed, end = visible.clone(), 0
    for part, is_near in zip(parts, near, strict=True):
        start, end = end, end + len(part.ids)
        if is_near is not None:
            bits = np.packbits(is_near, axis=1, bitorder="little")
            windowed[start:end, : bits.shape[1]] &= torch.from_numpy(bits)
    return windowed


def packed(sets: Sequence[int], num_bytes: int = 0) -> Tensor:
    """Sets of small numbers as bits, the lowest first: uint8 of (sets, NUM_BYTES or more)."""
    num_bytes = max(num_bytes, NUM_BYTES)
    bits = bytearray().join([each.to_bytes(num_bytes, "little") for each in sets])
    return torch.frombuffer(bits, dtype=torch.uint8).view(len(sets), num_bytes)


def split(parts: Sequence[Part], output: Tensor) -> list[Tensor]:
    """A pass's output of all rows by part: views (rows, ...)."""
    return [*output.split_with_sizes([len(part.ids) for part in parts])]


@dataclass(frozen=True, slots=True)
class Examples:
    """Makes arguments of passes that mean nothing: the first nodes of a tree.

    `cache` are the rows of a cache, and what is kept in place of rows; `extra` makes a network's
    own inputs for a width. Ids are below `vocab_size`, positions below `max_positions`, `window` is
    that of sliding layers (0: none).
    """

    cache: Sequence[Tensor]
    extra: Callable[[int], tuple[Tensor, ...]]
    vocab_size: int
    max_positions: int
    window: int

    def __call__(self, width: int, length: int | None = None) -> Example:
        """A pass whose tree of MAX_WIDTH rows ends the first `length` rows of the cache.

        By default it has its rows where no text ever has any.
        """
        capacity = self.cache[0].shape[2]
        prefix = (length or capacity - SPARE_ROWS + MAX_WIDTH) - MAX_WIDTH
        rows = Rows(prefix if length is None else min(_FIRST, prefix), capacity)
        rows.add([0] * (prefix - rows.first), ())
        tree = bushy_tree(0, MAX_WIDTH)
        depths, last = tree.depths[:width], self.max_positions - 1
        part = Part(
            rows,
            [7 * row % self.vocab_size for row in range(width)],
            [min(prefix - rows.first + depth, last) for depth in depths],
            tree.ancestor_mask(range(width)),
            tree,
        )
        inputs = join([part], self.window)
        # No tensor twice: a compiler would take two inputs that are one for one input.
        windowed, scored = inputs.windowed.clone(), torch.arange(width)
        inputs = inputs._replace(windowed=windowed, scored=scored)
        return Example(inputs, self.extra(width), self.cache)
