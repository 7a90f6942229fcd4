"""Scoring trees of tokens with a network and its cache, which keeps a row for every token.

It knows nothing of what the network is, nor of sampling, drafting or requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.geometry import SPARE_ROWS, strip_rows
from engine.kv_cache import KVCache
from engine.parts import Examples, Part, join
from engine.passes import EagerRunner, PassFunction, PassInputs
from engine.rows import Rows
from engine.tree import TokenTree


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
    """A network, its cache, and where in it the rows of a text lie.

    Rows come in two parts: those of the committed text without its last token, and behind them
    those of the tree being scored. `score` adds tree rows, `commit` turns an accepted path into
    committed ones, `rollback` drops them, `reset` starts another text.
    """

    runner_kind: type[EagerRunner] = EagerRunner
    """Of what kind `runner` is: `engine.acceleration` sets by which one passes become fast."""
    layers_read: Sequence[int] = ()
    """The target's layers whose hidden states this network reads; see `Model.keep_features`."""

    def __init__(
        self,
        function: PassFunction,
        limits: ModelLimits,
        max_model_len: int,
        chunk: int,
        offset: int = 0,
    ) -> None:
        self.network, self.function = function.network, function
        parameter = next(self.network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.limits = limits
        self.max_model_len = min(max_model_len, limits.max_positions)
        self.num_passes = 0
        capacity = strip_rows(self.max_model_len)
        self.rows = Rows(0, capacity, offset, limits.rope_boundary)
        self.spare = Rows(capacity, SPARE_ROWS)
        """Where the rows lie that nobody reads."""
        self._cache = KVCache.of(capacity + SPARE_ROWS, function.probe)
        sizes = (limits.vocab_size, self.max_model_len, limits.window)
        self._example = Examples(self._cache.rows, function.extra, *sizes)
        self._chunk, self._offset = chunk, offset
        self._runners: dict[str, EagerRunner] = {}

    @abstractmethod
    def _forward(self, parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        """Run a pass of these parts, which writes their rows to the cache: logits of all nodes."""

    def forward_on_device(self, inputs: PassInputs, carried: Tensor) -> tuple[Tensor, Tensor]:
        """One pass that waits for nobody, over inputs on the device: a part of what is recorded.

        `carried` (rows, carry_size) is what the rows' parents hand down. Returns logits (rows,
        vocabulary) and what the rows hand down. Whoever runs it counts the rows in.
        """
        return self.runner.call(inputs)[0], carried

    @property
    def runner(self) -> EagerRunner:
        """What runs the passes."""
        name = self.function.description
        runner = self._runners.get(name)
        if runner is None or not isinstance(runner, self.runner_kind):
            runner = self._runners[name] = self.runner_kind(self.function, self._example)
        return runner

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text: keep the rows of the longest common prefix with the last one."""
        self.rows.keep(prompt)

    def read(self, context: Sequence[int]) -> bool:
        """Feed a chunk of the committed tokens, unless one pass can take all with a tree.

        Whether there was one to feed: a long text is read by calling this until it says no.
        """
        self.rows.fit(context)
        missing = self.rows.missing(context)
        if len(missing) <= self._chunk:
            return False
        self._feed(missing[: self._chunk], TokenTree(0), [])
        return True

    def score(
        self, context: Sequence[int], tree: TokenTree, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Score nodes of the tree in one pass: logits of shape (len(nodes), vocabulary).

        `context` is the committed text; its last token is the tree's root. Committed tokens that
        the cache lacks are fed in the same pass. `nodes` (all, if None) must come after their
        parents, which are among them or were scored since the last commit or rollback.
        """
        while self.read(context):
            pass
        nodes = range(len(tree)) if nodes is None else nodes
        return self._feed(self.rows.missing(context), tree, nodes)

    def wait(self) -> None:
        """Let the device finish: until then a GPU's pass has only been asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def commit(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Keep the rows of the root and of `path`, which must have been scored; drop the others."""
        self._cache.move(*self.rows.commit(tree, path))

    def rollback(self) -> None:
        """Drop the tree's rows."""
        self.rows.rollback()

    def max_depth(self, context: Sequence[int]) -> int:
        """The deepest node that a tree below this context may have; none below a rowless token."""
        root = len(context) - 1 - self._offset
        limit = self.max_model_len - self._offset
        boundary = self.limits.rope_boundary
        if boundary is not None and root < boundary:
            limit = min(limit, boundary)
        return max(0, limit - 1 - root) if root >= 0 else 0

    def _feed(self, pending: Sequence[int], tree: TokenTree, nodes: Sequence[int]) -> Tensor:
        """One forward pass over committed tokens and then nodes; logits of the nodes."""
        part = Part.of_text(self.rows, pending, tree, nodes)
        num_padding, place = self.runner.num_padding(len(part.ids)), 0
        if self.rows.is_long and max(part.positions) < (boundary := self.limits.rope_boundary or 0):
            # A row that nobody reads, behind the boundary, so that all have a long text's factors.
            num_padding, place = max(1, num_padding), boundary
        parts = [part]
        if num_padding:
            parts = [Part.padding(self.spare, num_padding, place), part]
        with torch.inference_mode():
            logits = self._forward(parts, join(parts, self.limits.window))
        self.rows.add(pending, nodes)
        self.num_passes += 1
        return logits
