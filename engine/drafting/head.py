"""A head as a scorer of trees: the model of a draft stage that reads the target's features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.drafting.head_network import HeadLayer, HeadNetwork
from engine.kv_cache import Cache, PassRows
from engine.loading import rope_boundary
from engine.masks import DenseMasks, Extent, PackedMasks
from engine.model import Model
from engine.parts import Part, split
from engine.passes import PassFunction, PassInputs
from engine.scorer import ModelLimits, TreeScorer


class HeadPass(PassFunction):
    """A pass of a head: logits over its draft vocabulary, and outputs of every row."""

    network: HeadNetwork

    def __init__(self, network: HeadNetwork) -> None:
        super().__init__()
        self.network = network
        self.description = repr(network.shape)
        self.carry_size = network.shape.layer.hidden_size

    @property
    def layers(self) -> tuple[HeadLayer]:
        """The only one."""
        return (self.network.midlayer,)

    def probe(self, cache: Cache) -> None:
        """Run the network over one token, so that it writes to this cache."""
        (features,) = self.extra(1)
        token = torch.zeros(1, 1, dtype=torch.long, device=features.device)
        mask = torch.zeros(1, 1, 1, 1, device=features.device, dtype=features.dtype)
        self.network(token, features, token, cache, DenseMasks(mask))

    def extra(self, width: int) -> tuple[Tensor, ...]:
        """Features: the same for a row whatever the width, and no two alike."""
        weight = next(self.network.parameters())
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, width, self.carry_size, generator=generator)
        return (features.to(weight.device, weight.dtype),)

    def forward(
        self,
        rows: Tensor,
        visible: Tensor,
        windowed: Tensor,
        scored: Tensor,
        *rest: Tensor,
        extents: Sequence[Extent] | None = None,
    ) -> tuple[Tensor, ...]:
        """`rest` are features (1, width, hidden) and the cache's rows; outputs (width, hidden)."""
        features, *cached = rest
        ids, slots, positions = rows[:3, None]
        cache = PassRows(cached, slots[0])
        masks = PackedMasks(rows[2:], visible, windowed, extents=extents)
        outputs = self.network(ids, features, positions, cache, masks)[0]
        return self.network.logits(outputs[scored]), outputs


class HeadModel(TreeScorer):
    """A head's network and cache; the row of token i holds the target's features of token i-1.

    So the text's first token has no row, and the second is at position 0. Below the root a row
    holds the head's own output at the parent. Where parent and child share a pass, because the
    stage below guessed both, it holds what the parent's row holds: the latest output above both. A
    head of ours is trained on such rows (`engine.training.head`).
    """

    network: HeadNetwork

    def __init__(self, network: HeadNetwork, target: Model, chunk: int = 512) -> None:
        config = network.shape.layer
        limits = ModelLimits(
            target.limits.vocab_size,
            config.max_position_embeddings + 1,
            rope_boundary=rope_boundary(config),
        )
        num_seats = len(target.strips.seats)
        super().__init__(HeadPass(network), limits, target.max_model_len, chunk, num_seats, 1)
        self.layers_read = network.shape.layers
        self._target = target
        is_whole = network.shape.draft_vocab_size >= self.limits.vocab_size
        self._draft_ids = None if is_whole else network.draft_ids

    def forward_on_device(self, inputs: PassInputs, carried: Tensor) -> tuple[Tensor, Tensor]:
        """One pass that waits for nobody; each row reads its parent's output."""
        logits, outputs = self.runner.call(inputs, (carried[None],))
        return self._over_all_tokens(logits), outputs

    def _forward(self, parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        features = torch.cat([self._features(part) for part in parts])[None]
        extents = (part.extent for part in parts)
        logits, outputs = self.runner.run(inputs, (features,), extents)
        for part, states in zip(parts, split(parts, outputs), strict=True):
            num_others = len(part.ids) - len(part.nodes)
            part.rows.carried.update(zip(part.nodes, states[num_others:], strict=True))
        return self._over_all_tokens(logits)

    def _features(self, part: Part) -> Tensor:
        """What a part's rows hold beside their tokens: (rows, hidden); padding holds nothing."""
        if part.rows is self.strips.spare:
            shape = (len(part.ids), self.function.carry_size)
            return torch.zeros(shape, device=self.device, dtype=self.dtype)
        start = part.rows.prefix - part.rows.first
        parents = part.tree.parents
        num_true = len(part.pending) + any(parents[node] < 0 for node in part.nodes)
        end = start + num_true
        true = self.network.fuse(self._target.features(part.rows.seat, start, end))
        held: dict[int, Tensor] = {}
        for node in part.nodes:
            if (parent := parents[node]) < 0:
                held[node] = true[-1]
            else:
                above = part.rows.carried.get(parent)
                held[node] = held[parent] if above is None else above
        below = [held[node][None] for node in part.nodes if parents[node] >= 0]
        return torch.cat([true, *below])

    def _over_all_tokens(self, logits: Tensor) -> Tensor:
        """Logits (nodes, target vocabulary) from those over the draft vocabulary."""
        if self._draft_ids is None:
            return logits
        whole = logits.new_full((len(logits), self.limits.vocab_size), float("-inf"))
        whole[:, self._draft_ids] = logits
        return whole
