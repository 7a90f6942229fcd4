"""A head as a scorer of trees: the model of a draft stage that reads the target's features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention import DenseMasks, PackedMasks
from engine.drafting.head_network import HeadLayer, HeadNetwork
from engine.feed import Pass
from engine.kv_cache import Cache, PassRows
from engine.loading import rope_boundary
from engine.model import Model
from engine.passes import PassFunction, PassInputs
from engine.scorer import ModelLimits, TreeScorer


class HeadPass(PassFunction):
    """A pass of a head: logits over its draft vocabulary and outputs, of every row."""

    def __init__(self, network: HeadNetwork) -> None:
        super().__init__()
        self.network = network
        self.description = repr(network.shape)

    @property
    def layers(self) -> tuple[HeadLayer]:
        """The only one."""
        return (self.network.midlayer,)

    def forward(
        self,
        tokens: Tensor,
        prefix: Tensor,
        visible: Tensor,
        windowed: Tensor,
        *rest: Tensor,
        num_logits: int = 0,
        length: int | None = None,
    ) -> tuple[Tensor, ...]:
        """`rest` are features (1, width, hidden) and the cache's rows; outputs (width, hidden)."""
        features, *rows = rest
        ids, positions, slots = tokens[:, None]
        cache = PassRows(rows, slots[0], length)
        masks = PackedMasks(prefix, visible, windowed, positions)
        outputs = self.network(ids, features, positions, cache, masks)[0]
        return self.network.logits(outputs[-num_logits:]), outputs


class HeadModel(TreeScorer):
    """A head's network and cache; the row of token i holds the target's features of token i-1.

    So the text's first token has no row, and everything here counts from the second one. Below
    the root a row holds the head's own output at the parent. Where parent and child share a pass,
    because the stage below guessed both, it holds what the parent's row holds: the latest output
    above both. A head of ours is trained on such rows (`engine.training.head`).
    """

    network: HeadNetwork

    def __init__(self, network: HeadNetwork, target: Model, chunk: int = 512) -> None:
        config = network.shape.layer
        limits = ModelLimits(
            target.limits.vocab_size,
            config.max_position_embeddings + 1,
            rope_boundary=rope_boundary(config),
        )
        super().__init__(network, limits, target.max_model_len, chunk)
        self._target = target
        self._first: list[int] = []
        # Of every tree node with a row: the feature that its row holds, and its output.
        self._inputs: dict[int, Tensor] = {}
        self._outputs: dict[int, Tensor] = {}
        is_whole = network.shape.draft_vocab_size >= self.limits.vocab_size
        self._draft_ids = None if is_whole else network.draft_ids

    def reset(self, prompt: Sequence[int]) -> None:
        """Start another text: keep the rows of the longest common prefix with the last one."""
        is_same = list(prompt[:1]) == self._first
        self._first = list(prompt[:1])
        super().reset(prompt if is_same else [])

    def rollback(self) -> None:
        """Drop the tree's rows."""
        super().rollback()
        self._inputs, self._outputs = {}, {}

    def max_depth(self, context: Sequence[int]) -> int:
        """The deepest node that a tree below this context may have; none below a first token."""
        return super().max_depth(context) if len(context) > 1 else 0

    @property
    def layers_read(self) -> Sequence[int]:
        """The layers that the head was trained to read."""
        return self.network.shape.layers

    @property
    def carry_size(self) -> int:
        """The width of an output."""
        return self.network.shape.layer.hidden_size

    def carried(self, nodes: Sequence[int]) -> Tensor:
        """The outputs of these nodes: (nodes, hidden)."""
        return torch.stack([self._outputs[node] for node in nodes])

    def forward_on_device(self, inputs: PassInputs, carried: Tensor) -> tuple[Tensor, Tensor]:
        """One pass that waits for nobody; each row reads its parent's output."""
        logits, outputs = self.runner.call(inputs, (carried[None],))
        return self._over_all_tokens(logits), outputs

    def adopt(
        self, nodes: Sequence[int], carried: Tensor, places: Sequence[int], num_passes: int
    ) -> None:
        """Count in nodes that passes on the device have scored, with their outputs."""
        super().adopt(nodes, carried, places, num_passes)
        # A copy: the device writes there again.
        self._outputs.update(zip(nodes, carried[list(places)], strict=True))

    def _rows_of(self, context: Sequence[int]) -> Sequence[int]:
        """All tokens but the first."""
        return context[1:]

    def _probe(self, cache: Cache) -> None:
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        mask = torch.zeros(1, 1, 1, 1, device=self.device, dtype=self.dtype)
        self.network(token, *self._extra(1), token, cache, DenseMasks(mask))

    def _function(self) -> HeadPass:
        return HeadPass(self.network)

    def _extra(self, width: int) -> tuple[Tensor, ...]:
        hidden_size = self.network.shape.layer.hidden_size
        # The same for a row whatever the width, and no two alike.
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, width, hidden_size, generator=generator)
        return (features.to(self.device, self.dtype),)

    def _forward(self, feed: Pass, inputs: PassInputs) -> Tensor:
        num_logits = len(feed.nodes)
        features = self._features(feed)[None]
        logits, outputs = self.runner.run(inputs, (features,), max(1, num_logits), feed.end)
        if not num_logits:
            return self._over_all_tokens(logits[:0])
        self._outputs.update(zip(feed.nodes, outputs[-num_logits:], strict=True))
        return self._over_all_tokens(logits[-num_logits:])

    def _features(self, feed: Pass) -> Tensor:
        """What the rows of a pass hold beside their tokens: (rows, hidden)."""
        num_true = len(feed.pending) + (0 in feed.nodes)
        true = self.network.fuse(self._target.features(feed.start, feed.start + num_true))
        for node in feed.nodes:
            if node == 0:
                self._inputs[node] = true[-1]
            else:
                parent = feed.tree.parents[node]
                above = self._outputs.get(parent)
                self._inputs[node] = self._inputs[parent] if above is None else above
        below = [self._inputs[node][None] for node in feed.nodes if node]
        return torch.cat([true, *below])

    def _over_all_tokens(self, logits: Tensor) -> Tensor:
        """Logits (nodes, target vocabulary) from those over the draft vocabulary."""
        if self._draft_ids is None:
            return logits
        whole = logits.new_full((len(logits), self.limits.vocab_size), float("-inf"))
        whole[:, self._draft_ids] = logits
        return whole
