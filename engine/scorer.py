"""Scoring trees of tokens with a network and its cache: which rows there are and who sees whom.

It knows nothing of what the network is, nor of sampling, drafting or requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention import TreeMasks
from engine.config import MAX_TREE_ROWS
from engine.kv_cache import KVCache
from engine.tree import TokenTree

_SCRATCH_ROWS = MAX_TREE_ROWS + 1
"""Rows kept free behind the longest text, for a tree or a draft's candidates, and their root."""


def never() -> bool:
    """The answer to "is it cancelled?" where nobody can cancel."""
    return False


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What the model's configuration says: sizes in tokens, a sliding window, ids that end a text.

    From `rope_boundary` on (None: nowhere) the positions of one pass change each other's rotary
    factors, so a tree must not reach across it.
    """

    vocab_size: int
    max_positions: int
    eos_token_ids: tuple[int, ...] = ()
    window: int = 0
    rope_boundary: int | None = None


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
    def ids(self) -> list[int]:
        """Token ids, a row each."""
        return [*self.pending, *(self.tree.tokens[node] for node in self.nodes)]

    @property
    def positions(self) -> list[int]:
        """The place of every row in the text: for nodes by depth, not by index."""
        depths = (self.tree.depths[node] for node in self.nodes)
        return [*range(self.start, self.root), *(self.root + depth for depth in depths)]


class TreeScorer(ABC):
    """A network, its cache, and the tokens whose rows the cache holds.

    Rows come in two parts: those of `tokens`, the committed text without its last token, and
    behind them those of the tree being scored. `score` adds tree rows, `commit` turns an accepted
    path into committed ones, `rollback` drops them, `reset` starts another text.
    """

    def __init__(
        self,
        limits: ModelLimits,
        max_model_len: int,
        chunk: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.limits = limits
        self.max_model_len = min(max_model_len, limits.max_positions)
        self.device, self.dtype = device, dtype
        self.tokens: list[int] = []
        self.num_passes = 0
        self._chunk = chunk
        self._nodes: list[int] = []
        self._cache = KVCache(self.max_model_len + _SCRATCH_ROWS)

    @abstractmethod
    def _forward(self, feed: Pass, masks: TreeMasks) -> Tensor:
        """Run the network, which writes its rows to the cache: logits of the pass's nodes."""

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text: keep the rows of the longest common prefix with the last one."""
        self.rollback()
        common = 0
        for held, wanted in zip(self.tokens, self._rows_of(prompt)[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        del self.tokens[common:]
        self._cache.truncate(common)

    def catch_up(self, context: Sequence[int], is_cancelled: Callable[[], bool] = never) -> bool:
        """Feed committed tokens in chunks until one pass can take the rest together with a tree.

        False if it was cancelled before that; what was fed stays.
        """
        text = self._rows_of(context)
        while size := self._chunk_size(text):
            if is_cancelled():
                return False
            start = len(self.tokens)
            self._feed(text[start : start + size], TokenTree(0), [])
        return True

    def score(
        self, context: Sequence[int], tree: TokenTree, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Score nodes of the tree in one pass: logits of shape (len(nodes), vocabulary).

        `context` is the committed text; its last token is the tree's root. Committed tokens that
        the cache lacks are fed in the same pass. `nodes` (all, if None) must come after their
        parents, which are among them or were scored since the last commit or rollback.
        """
        nodes = range(len(tree)) if nodes is None else nodes
        self.catch_up(context)
        return self._feed(self._rows_of(context)[len(self.tokens) : -1], tree, nodes)

    def commit(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Keep the rows of the root and of `path`, which must have been scored; drop the others."""
        place = {node: row for row, node in enumerate(self._nodes, start=len(self.tokens))}
        kept = [0, *path]
        self._cache.compact(len(self.tokens), [place[node] for node in kept])
        self.tokens.extend(tree.tokens[node] for node in kept)
        self._nodes = []

    def rollback(self) -> None:
        """Drop the tree's rows."""
        self._cache.truncate(len(self.tokens))
        self._nodes = []

    def max_depth(self, context: Sequence[int]) -> int:
        """The deepest node that a tree below this context may have."""
        root = len(self._rows_of(context)) - 1
        limit = self.max_model_len
        boundary = self.limits.rope_boundary
        if boundary is not None and root < boundary:
            limit = min(limit, boundary)
        return max(0, limit - 1 - root)

    def _rows_of(self, context: Sequence[int]) -> Sequence[int]:
        """The tokens of a text that have rows here: all of them."""
        return context

    def _chunk_size(self, text: Sequence[int]) -> int:
        """How many committed tokens to feed on their own; 0 if the rest can go with a tree.

        No pass crosses the rotary boundary, or the factors of its first rows would depend on where
        it began, and so on what the cache happened to hold.
        """
        start, root = len(self.tokens), len(text) - 1
        boundary = self.limits.rope_boundary
        if boundary is not None and start < boundary <= root:
            return min(self._chunk, boundary - start)
        return self._chunk if root - start > self._chunk else 0

    def _feed(self, pending: Sequence[int], tree: TokenTree, nodes: Sequence[int]) -> Tensor:
        """One forward pass over committed tokens and then nodes; logits of the nodes."""
        if self._nodes and pending:
            raise ValueError("committed tokens cannot follow a tree's rows: roll back first")
        feed = Pass(len(self.tokens), pending, tree, nodes, tuple(self._nodes))
        with torch.inference_mode():
            logits = self._forward(feed, self._masks(feed))
        self._cache.extend(len(pending) + len(nodes))
        self.num_passes += 1
        self.tokens.extend(pending)
        self._nodes.extend(nodes)
        return logits

    def _masks(self, feed: Pass) -> TreeMasks:
        """What each row of the pass may see: committed rows before it, its ancestors, itself."""
        positions, root, num_pending = feed.positions, feed.root, len(feed.pending)
        columns = [*feed.earlier, *feed.nodes]
        is_plain = len(positions) == 1 and len(columns) <= 1
        is_windowed = 0 < self.limits.window <= max(positions)
        if is_plain and not is_windowed:
            return TreeMasks(window=self.limits.window)
        visible = torch.ones(len(positions), root + len(columns), dtype=torch.bool)
        visible[:num_pending] = visible[:num_pending].tril(feed.start)
        if feed.nodes:
            mask = feed.tree.ancestor_mask(feed.nodes, columns)
            visible[num_pending:, root:] = torch.from_numpy(mask)
        full = self._additive(visible)
        if not is_windowed:
            return TreeMasks(full, full, self.limits.window)
        seen = [*range(root), *(root + feed.tree.depths[node] for node in columns)]
        distance = torch.tensor(positions)[:, None] - torch.tensor(seen)[None, :]
        windowed = self._additive(visible & (distance < self.limits.window))
        return TreeMasks(full, windowed, self.limits.window)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self.dtype)
        mask.masked_fill_(~visible, float("-inf"))
        return mask[None, None].to(self.device)
