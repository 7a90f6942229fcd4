"""A causal language model and its cache: it scores trees of tokens and keeps what is committed.

The only room that touches transformers' models, through public seams: a `Cache`, an attention
function and a keyword argument. It knows nothing of sampling, drafting or requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from engine.attention import TreeMasks
from engine.config import MAX_TREE_ROWS
from engine.errors import ModelLoadError
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


class Model:
    """A network, its cache, and the tokens whose rows the cache holds.

    Rows come in two parts: those of `tokens`, the committed text without its last token, and
    behind them those of the tree being scored. `score` adds tree rows, `commit` turns an accepted
    path into committed ones, `rollback` drops them, `reset` starts another text.
    """

    def __init__(
        self, network: PreTrainedModel, limits: ModelLimits, max_model_len: int, chunk: int = 512
    ) -> None:
        self.network = network
        self.limits = limits
        self.max_model_len = min(max_model_len, limits.max_positions)
        self.tokens: list[int] = []
        self.num_passes = 0
        self._chunk = chunk
        self._nodes: list[int] = []
        self._cache = KVCache(self.max_model_len + _SCRATCH_ROWS)
        parameter = next(network.parameters())
        self._device, self.dtype = parameter.device, parameter.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def pad_vocabulary(self, size: int) -> None:
        """Give ids up to `size` an embedding, so that a larger target's padding ids can be fed."""
        self.network.resize_token_embeddings(size, mean_resizing=False)
        self.limits = replace(self.limits, vocab_size=size)

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text: keep the rows of the longest common prefix with the last one."""
        self.rollback()
        common = 0
        for held, wanted in zip(self.tokens, prompt[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        del self.tokens[common:]
        self._cache.truncate(common)

    def catch_up(self, context: Sequence[int], is_cancelled: Callable[[], bool] = never) -> bool:
        """Feed committed tokens in chunks until one pass can take the rest together with a tree.

        False if it was cancelled before that; what was fed stays.
        """
        while size := self._chunk_size(context):
            if is_cancelled():
                return False
            start = len(self.tokens)
            self._feed(context[start : start + size], TokenTree(0), [])
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
        return self._feed(context[len(self.tokens) : -1], tree, nodes)

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
        root = len(context) - 1
        limit = self.max_model_len
        boundary = self.limits.rope_boundary
        if boundary is not None and root < boundary:
            limit = min(limit, boundary)
        return max(0, limit - 1 - root)

    def _chunk_size(self, context: Sequence[int]) -> int:
        """How many committed tokens to feed on their own; 0 if the rest can go with a tree.

        No pass crosses the rotary boundary, or the factors of its first rows would depend on where
        it began, and so on what the cache happened to hold.
        """
        start, root = len(self.tokens), len(context) - 1
        boundary = self.limits.rope_boundary
        if boundary is not None and start < boundary <= root:
            return min(self._chunk, boundary - start)
        return self._chunk if root - start > self._chunk else 0

    def _feed(self, pending: Sequence[int], tree: TokenTree, nodes: Sequence[int]) -> Tensor:
        """One forward pass over committed tokens and then nodes; logits of the nodes."""
        start = len(self.tokens)
        root = start + len(pending)
        if self._nodes and pending:
            raise ValueError("committed tokens cannot follow a tree's rows: roll back first")
        ids = [*pending, *(tree.tokens[node] for node in nodes)]
        positions = [*range(start, root), *(root + tree.depths[node] for node in nodes)]
        logits = self._forward(
            ids, positions, self._masks(root, tree, nodes, positions), len(nodes)
        )
        self.tokens.extend(pending)
        self._nodes.extend(nodes)
        return logits

    @torch.inference_mode()
    def _forward(
        self, ids: list[int], positions: list[int], masks: TreeMasks, num_logits: int
    ) -> Tensor:
        output = self.network(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=max(1, num_logits),
            tree_masks=masks,
        )
        self._cache.extend(len(ids))
        self.num_passes += 1
        logits: Tensor = output.logits[0, -num_logits:] if num_logits else output.logits[0, :0]
        return logits

    def _masks(
        self, root: int, tree: TokenTree, nodes: Sequence[int], positions: Sequence[int]
    ) -> TreeMasks:
        """What each row of the pass may see: committed rows before it, its ancestors, itself."""
        start = len(self.tokens)
        num_pending = root - start
        columns = [*self._nodes, *nodes]
        is_plain = len(positions) == 1 and len(columns) <= 1
        is_windowed = 0 < self.limits.window <= max(positions)
        if is_plain and not is_windowed:
            return TreeMasks(window=self.limits.window)
        visible = torch.ones(len(positions), root + len(columns), dtype=torch.bool)
        visible[:num_pending] = visible[:num_pending].tril(start)
        if nodes:
            visible[num_pending:, root:] = torch.from_numpy(tree.ancestor_mask(nodes, columns))
        full = self._additive(visible)
        if not is_windowed:
            return TreeMasks(full, full, self.limits.window)
        seen = [*range(root), *(root + tree.depths[node] for node in columns)]
        distance = torch.tensor(positions)[:, None] - torch.tensor(seen)[None, :]
        windowed = self._additive(visible & (distance < self.limits.window))
        return TreeMasks(full, windowed, self.limits.window)

    def _additive(self, visible: Tensor) -> Tensor:
        mask = torch.zeros(visible.shape, dtype=self.dtype)
        mask.masked_fill_(~visible, float("-inf"))
        return mask[None, None].to(self._device)

    def check_seam(self) -> Self:
        """Prove on a small tree that this model obeys masks and positions, or refuse it.

        Node 3 must score the same behind its sibling-laden tree as it does in a chain of its own.
        Raises ModelLoadError: an architecture that ignored the mask would corrupt text silently.
        """
        tokens = [token % self.limits.vocab_size for token in (1, 5, 9, 17, 33)]
        tree = TokenTree.from_parents([tokens[0], tokens[1], tokens[2], tokens[3]], [-1, 0, 0, 2])
        chain = TokenTree.from_parents([tokens[0], tokens[2], tokens[3]], [-1, 0, 1])
        context = [tokens[4], tokens[0]]
        branched = self._scored(context, tree)
        straight = self._scored(context, chain)
        # What a network that knows only of causal order would make of the tree.
        blind_chain = TokenTree.from_parents(tree.tokens, [-1, 0, 1, 2])
        blind = self._scored(context, blind_chain)
        self.reset([0])
        error, blindness = (branched - straight).abs().max(), (blind - straight).abs().max()
        if not error < 0.1 * blindness:
            raise ModelLoadError(
                f"{type(self.network).__name__} does not follow the tree mask (error {error:.2g} "
                f"on a branching tree, {blindness:.2g} for a network blind to it); this "
                "architecture cannot be served in this precision."
            )
        return self

    def _scored(self, context: Sequence[int], tree: TokenTree) -> Tensor:
        """The last node's logits, in float32, from a fresh cache."""
        self.reset([0])
        self.reset(context)
        return self.score(context, tree)[-1].float()
