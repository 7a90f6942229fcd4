"""Scoring trees of tokens with a network and its cache, which keeps a row for every token.

It knows nothing of what the network is, nor of sampling, drafting or requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kv_cache import Kept, kept_by
from engine.parts import Examples, Part, join
from engine.passes import EagerRunner, PassFunction, PassInputs
from engine.rows import Seated
from engine.strips import LEAST_COPY, Strips
from engine.tree import TokenTree
from engine.turns import Share, prompt_parts, room_for, tree_parts
from engine.weights import Precision

_MOST_LOGITS = 2**24
"""Of a pass that scores a prompt: 64 MB in float32, a few times over."""


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
    """A network, its cache, and where in it the rows of texts lie.

    Rows of a text come in two parts: those of the committed text without its last token, and behind
    them those of the tree being scored. `score` adds tree rows, `commit` turns accepted paths into
    committed ones, `rollback` drops them. A text that is new at its seat keeps what rows are known.
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
        num_seats: int = 1,
        offset: int = 0,
        kept: Kept | None = None,
    ) -> None:
        """`kept` is what the function keeps of a token, if that has been found out already."""
        self.network, self.function = function.network, function
        parameter = next(self.network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.precision = Precision.of(self.dtype)
        """What its products are computed in, and why."""
        self.limits = limits
        self.max_model_len = min(max_model_len, limits.max_positions)
        self.num_passes = 0
        self.chunk = chunk
        """How many tokens of a prompt are read at once."""
        kept = kept or kept_by(function.probe)
        self.strips = Strips(num_seats, self.max_model_len, kept, offset, limits.rope_boundary)
        sizes = (limits.vocab_size, self.max_model_len, limits.window)
        self._example = Examples(self.strips.tensors, function.extra, *sizes)
        self._offset = offset
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

    def num_missing(self, text: Seated) -> int:
        """How many committed tokens of a text have no row yet, the root not counted."""
        rows = self.strips.of(text)
        rows.fit(text.tokens)
        return max(0, len(text.tokens) - 1 - len(rows.tokens))

    def read(self, text: Seated) -> bool:
        """Feed a chunk of the committed tokens, unless one pass can take all with a tree.

        Whether there was one to feed: a long text is read by calling this until it says no. Chunks
        end where their number of tokens is a multiple of their size, whatever was known before.
        What a neighbour has read meanwhile is copied: equal prompts may have come together.
        """
        num_missing = self.num_missing(text)
        if num_missing >= LEAST_COPY:
            self.strips.borrow(text)
            num_missing = self.num_missing(text)
        if num_missing <= self.chunk:
            return False
        rows = self.strips.of(text)
        start = len(rows.tokens)
        pending = text.tokens[start : (start // self.chunk + 1) * self.chunk]
        for part in prompt_parts(rows, pending, self.precision, self.runner.widest):
            self._feed([part])
        return True

    def read_scored(self, text: Seated) -> Tensor:
        """Feed a chunk of the committed tokens and score them: logits (tokens, vocabulary).

        There are none once all have rows but the last. They are the nodes of a chain that is
        accepted whole, of as many as keep the logits small.
        """
        rows = self.strips.of(text)
        rows.fit(text.tokens)
        most = max(1, _MOST_LOGITS // self.limits.vocab_size)
        width = min(room_for(rows, self.runner.widest) or self.chunk, most)
        pending = rows.missing(text.tokens)[:width]
        if not pending:
            return torch.empty(0, self.limits.vocab_size)
        chain = TokenTree.from_parents(pending, range(-1, len(pending) - 1))
        nodes = range(len(chain))
        logits = self._feed([Part.of_text(rows, [], chain, nodes)])
        rows.commit(chain, nodes)  # where they are already
        return logits

    def score(
        self, texts: Sequence[Seated], tree: TokenTree, nodes: Sequence[int] | None = None
    ) -> Tensor:
        """Score nodes of a tree, whose roots are these texts' last tokens, in one pass.

        Returns logits of shape (len(nodes), vocabulary). Committed tokens that the cache lacks of
        texts that have nodes are fed in the same pass. `nodes` (all, if None), which lie text by
        text, must come after their parents, which are among them or were scored since the last
        commit or rollback.
        """
        own: list[list[int]] = [[] for _ in texts]
        for node in range(len(tree)) if nodes is None else nodes:
            own[tree.texts[node]].append(node)
        pairs = [(text, group) for text, group in zip(texts, own, strict=True) if group]
        widest, shares = self.runner.widest, []
        for text, group in pairs:
            while self.read(text):
                pass
            rows = self.strips.of(text)
            pending = rows.missing(text.tokens)
            if pending and (room := room_for(rows, widest)) is not None:
                left = max(0, room - sum(map(len, own))) // len(pairs)
                for part in prompt_parts(rows, pending, self.precision, widest, left):
                    self._feed([part])
            shares.append(Share(rows, text.tokens, group))
        logits = [self._feed(parts) for parts in tree_parts(shares, tree, widest)]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def wait(self) -> None:
        """Let the device finish: until then a GPU's pass has only been asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def commit(
        self, texts: Sequence[Seated], tree: TokenTree, kept: Sequence[Sequence[int]]
    ) -> None:
        """Keep the rows of these nodes, a root and a path of each text; drop all others."""
        sources: list[int] = []
        targets: list[int] = []
        for text, nodes in zip(texts, kept, strict=True):
            places = self.strips.of(text).commit(tree, nodes)
            sources += places[0]
            targets += places[1]
        if sources != targets:
            self.strips.cache.move(sources, targets)

    def max_depth(self, context: Sequence[int]) -> int:
        """The deepest node that a tree below this context may have; none below a rowless token."""
        root = len(context) - 1 - self._offset
        limit = self.max_model_len - self._offset
        boundary = self.limits.rope_boundary
        if boundary is not None and root < boundary:
            limit = min(limit, boundary)
        return max(0, limit - 1 - root) if root >= 0 else 0

    def _feed(self, parts: Sequence[Part]) -> Tensor:
        """One forward pass over these parts; logits of their nodes."""
        num_padding, place = self.runner.num_padding(sum([len(part.ids) for part in parts])), 0
        if parts[0].rows.is_long:
            boundary = self.limits.rope_boundary or 0
            if max(max(part.positions) for part in parts) < boundary:
                # A row that nobody reads, behind the boundary, for a long text's factors.
                num_padding, place = max(1, num_padding), boundary
        fed = parts
        if num_padding:
            fed = [Part.padding(self.strips.spare, num_padding, place), *parts]
        with torch.inference_mode():
            logits = self._forward(fed, join(fed, self.limits.window))
        for part in parts:
            part.rows.add(part.pending, part.nodes)
        self.num_passes += 1
        return logits
