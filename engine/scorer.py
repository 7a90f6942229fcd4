"""Scoring trees of tokens with a network and its cache, which keeps a row for every token.

It knows nothing of what the network is, nor of sampling, drafting or requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.config import MAX_TREE_ROWS
from engine.feed import Pass, example, packed
from engine.kv_cache import Cache, KVCache
from engine.passes import (
    EagerRunner,
    Example,
    PassFunction,
    PassInputs,
)
from engine.tree import TokenTree

R = TypeVar("R", bound=EagerRunner)
_SCRATCH_ROWS = MAX_TREE_ROWS + 2
"""Rows kept free behind the longest text, for a tree or a draft's candidates, their root, and one
that is never used, but by padding."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What the model's configuration says: sizes in tokens, a sliding window, ids that end a text.

    A text longer than `rope_boundary` (None: there is none) has other rotary factors in all of its
    rows than a shorter one, and a pass takes those of its last position.
    """

    vocab_size: int
    max_positions: int
    eos_token_ids: tuple[int, ...] = ()
    window: int = 0
    rope_boundary: int | None = None


class TreeScorer(ABC):
    """A network, its cache, and the tokens whose rows the cache holds.

    Rows come in two parts: those of `tokens`, the committed text without its last token, and
    behind them those of the tree being scored. `score` adds tree rows, `commit` turns an accepted
    path into committed ones, `rollback` drops them, `reset` starts another text.
    """

    def __init__(
        self,
        network: nn.Module,
        limits: ModelLimits,
        max_model_len: int,
        chunk: int,
    ) -> None:
        parameter = next(network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.limits = limits
        self.max_model_len = min(max_model_len, limits.max_positions)
        self.tokens: list[int] = []
        self.num_passes = 0
        self.network = network
        self._chunk = chunk
        self._nodes: list[int] = []
        self._is_long = False
        self._runners: dict[Hashable, EagerRunner] = {}

    @property
    def layers_read(self) -> Sequence[int]:
        """The target's layers whose hidden states this network reads; see `Model.keep_features`."""
        return ()

    @abstractmethod
    def _probe(self, cache: Cache) -> None:
        """Run the network over one token, so that it writes to this cache."""

    @abstractmethod
    def _function(self) -> PassFunction:
        """The network's pass, in its present variant."""

    @property
    def _variant(self) -> Hashable:
        """What decides, beside the network, which function its pass is."""
        return None

    @abstractmethod
    def _forward(self, feed: Pass, inputs: PassInputs) -> Tensor:
        """Run a pass, which writes its rows to the cache: logits of the pass's nodes."""

    @property
    def carry_size(self) -> int:
        """How many figures a row hands down to its children's rows, beside those in the cache."""
        return 0

    def carried(self, nodes: Sequence[int]) -> Tensor:
        """What the rows of these nodes hand down, scored by the last pass: (nodes, carry_size)."""
        return torch.empty(len(nodes), 0, device=self.device, dtype=self.dtype)

    def forward_on_device(self, inputs: PassInputs, carried: Tensor) -> tuple[Tensor, Tensor]:
        """One pass that waits for nobody, over inputs on the device: a part of what is recorded.

        `carried` (rows, carry_size) is what the rows' parents hand down. Returns logits (rows,
        vocabulary) and what the rows hand down. Whoever runs it tells `adopt` about the rows.
        """
        return self.runner.call(inputs)[0], carried

    def _extra(self, width: int) -> tuple[Tensor, ...]:
        """Examples of the inputs that this network's pass has beside the common ones."""
        return ()

    @property
    def runner(self) -> EagerRunner:
        """What runs the passes."""
        return self.run_by(EagerRunner)

    def run_by(self, kind: type[R]) -> R:
        """What runs the passes, of this kind from now on: kinds differ in how passes get faster."""
        runner = self._runners.get(self._variant)
        if not isinstance(runner, kind):
            runner = self._runners[self._variant] = kind(self._function(), self._example)
        return runner

    @cached_property
    def _cache(self) -> KVCache:
        return KVCache.of(self.max_model_len + _SCRATCH_ROWS, self._probe)

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text: keep the rows of the longest common prefix with the last one."""
        self.rollback()
        self._fit_factors(self._rows_of(prompt))
        common = 0
        for held, wanted in zip(self.tokens, self._rows_of(prompt)[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        del self.tokens[common:]
        self._cache.truncate(common)

    def read(self, context: Sequence[int]) -> bool:
        """Feed a chunk of the committed tokens, unless one pass can take all with a tree.

        Whether there was one to feed: a long text is read by calling this until it says no.
        """
        text = self._rows_of(context)
        self._fit_factors(text)
        if size := self._chunk_size(text):
            start = len(self.tokens)
            self._feed(text[start : start + size], TokenTree(0), [])
        return size > 0

    def score(
        self, context: Sequence[int], tree: TokenTree, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Score nodes of the tree in one pass: logits of shape (len(nodes), vocabulary).

        `context` is the committed text; its last token is the tree's root. Committed tokens that
        the cache lacks are fed in the same pass. `nodes` (all, if None) must come after their
        parents, which are among them or were scored since the last commit or rollback.
        """
        nodes = range(len(tree)) if nodes is None else nodes
        while self.read(context):
            pass
        return self._feed(self._rows_of(context)[len(self.tokens) : -1], tree, nodes)

    def wait(self) -> None:
        """Let the device finish: until then a GPU's pass has only been asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def num_missing(self, context: Sequence[int]) -> int:
        """How many committed tokens have no row yet, the root not counted."""
        return max(0, len(context) - 1 - len(self.tokens))

    def commit(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Keep the rows of the root and of `path`, which must have been scored; drop the others."""
        place = {node: row for row, node in enumerate(self._nodes, start=len(self.tokens))}
        kept = [0, *path]
        self._cache.compact(len(self.tokens), [place[node] for node in kept])
        self.tokens.extend(tree.tokens[node] for node in kept)
        self._nodes = []

    @property
    def num_tree_rows(self) -> int:
        """Rows of the tree that have been scored since the last commit or rollback."""
        return len(self._nodes)

    @property
    def unused_slot(self) -> int:
        """The row of the cache that no text and no tree ever uses."""
        return self._cache.capacity - 1

    def sight(self, tree: TokenTree, start: int) -> Tensor:
        """What the tree's rows from `start` on see of all its rows: bits (rows, NUM_BYTES).

        Of the rows that have been scored, in that order.
        """
        return packed(tree.ancestor_mask(self._nodes)[start:])

    def adopt(
        self, nodes: Sequence[int], carried: Tensor, places: Sequence[int], num_passes: int
    ) -> None:
        """Count in nodes that passes on the device have scored, in the order of their rows.

        These lie right behind the tree's other rows. At `places` in `carried` (any, carry_size) is
        what they hand down.
        """
        self._cache.extend(len(nodes))
        self._nodes.extend(nodes)
        self.num_passes += num_passes

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
        """How many committed tokens to feed on their own; 0 if the rest can go with a tree."""
        return self._chunk if len(text) - 1 - len(self.tokens) > self._chunk else 0

    def _fit_factors(self, text: Sequence[int]) -> None:
        """Forget rows with the rotary factors of a text on the other side of the boundary."""
        boundary = self.limits.rope_boundary
        is_long = boundary is not None and len(text) > boundary
        if is_long != self._is_long:
            self._is_long = is_long
            self.tokens.clear()
            self.rollback()

    def _feed(self, pending: Sequence[int], tree: TokenTree, nodes: Sequence[int]) -> Tensor:
        """One forward pass over committed tokens and then nodes; logits of the nodes."""
        if self._nodes and pending:
            raise ValueError("committed tokens cannot follow a tree's rows: roll back first")
        feed = Pass(len(self.tokens), pending, tree, nodes, tuple(self._nodes))
        with torch.inference_mode():
            logits = self._forward(feed, self._inputs_of(feed))
        self._cache.extend(len(pending) + len(nodes))
        self.num_passes += 1
        self.tokens.extend(pending)
        self._nodes.extend(nodes)
        return logits

    def _inputs_of(self, feed: Pass) -> PassInputs:
        """The inputs of a pass, with as many rows of padding as its runner wants."""
        num_rows = len(feed.pending) + len(feed.nodes)
        slots = self._cache.free_slots(num_rows)
        num_padding = self.runner.num_padding(num_rows)
        place = feed.start
        if self._is_long and max(feed.positions) < (boundary := self.limits.rope_boundary or 0):
            # A row that nobody reads, behind the boundary, so that all have a long text's factors.
            num_padding, place = max(1, num_padding), boundary
        padding = [self.unused_slot] * num_padding
        return feed.inputs(padding, slots, self.limits.window, place)

    def _example(self, width: int, length: int | None = None) -> Example:
        """Arguments of a pass whose own rows end the first `length` of the cache.

        By default they are the last of the cache, where no text has any.
        """
        sizes = (self.limits.vocab_size, self.max_model_len, self.limits.window)
        inputs = example(width, length or self.unused_slot, sizes)
        return Example(inputs, self._extra(width), self._cache.rows)
