"""A causal language model of transformers that scores trees, and hands out its hidden states.

The only room that runs transformers' models, through public seams: a `Cache`, an attention
function, a keyword argument and `output_hidden_states`.
"""

from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.errors import ModelLoadError
from engine.kv_cache import Cache, Kept, PassRows
from engine.masks import DenseMasks, Extent, PackedMasks
from engine.parts import Part, split
from engine.passes import PassFunction, PassInputs
from engine.recurrent import Grouping, bind
from engine.rows import Tokens
from engine.scorer import ModelLimits, TreeScorer
from engine.seam import check_far, without_cache
from engine.tree import TokenTree


class CausalPass(PassFunction):
    """A pass of a causal language model, with hidden states of `layers` as its second output."""

    network: PreTrainedModel

    def __init__(self, network: PreTrainedModel, window: int, layers: Sequence[int]) -> None:
        super().__init__()
        bind(network)
        self.network = network
        shape = {**network.config.to_dict(), "_name_or_path": None}  # wherever it was loaded from
        self.description = f"{shape} {layers} {window}"
        self.window = window
        self.feature_layers = tuple(layers)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder's layers: the first list of modules of that length."""
        count = self.network.config.get_text_config().num_hidden_layers
        lists = (each for each in self.network.modules() if isinstance(each, nn.ModuleList))
        return list(next(each for each in lists if len(each) == count))

    def probe(self, cache: Cache) -> None:
        """Run the network over one token, so that it writes to this cache."""
        weight = next(self.network.parameters())
        token = torch.zeros(1, 1, dtype=torch.long, device=weight.device)
        mask = torch.zeros(1, 1, 1, 1, device=weight.device, dtype=weight.dtype)
        self.network(
            input_ids=token,
            position_ids=token,
            past_key_values=cache,
            use_cache=True,
            tree_masks=DenseMasks(mask),
        )

    def forward(
        self,
        rows: Tensor,
        visible: Tensor,
        windowed: Tensor,
        scored: Tensor,
        *rest: Tensor,
        extents: Sequence[Extent] | None = None,
    ) -> tuple[Tensor, ...]:
        """Logits (scored, vocabulary) and, of chosen layers, features (width, layers * hidden)."""
        ids, slots, positions = rows[:3, None]
        cache, kept = rest, None
        if self.states is not None:
            grouping, cache = Grouping(*rest[:2]), rest[2 : -len(self.states.tensors)]
            kept = self.states.of_pass(rows, visible, grouping, rest[2 + len(cache) :])
        output = self.network(
            input_ids=ids,
            position_ids=positions,
            past_key_values=PassRows(cache, slots[0], kept),
            use_cache=True,
            logits_to_keep=scored,
            tree_masks=PackedMasks(rows[2:], visible, windowed, self.window, extents),
            **({"output_hidden_states": True} if self.feature_layers else {}),
        )
        if not self.feature_layers:
            return (output.logits[0],)
        states = [output.hidden_states[layer][0] for layer in self.feature_layers]
        return output.logits[0], torch.cat(states, dim=-1)


class Model(TreeScorer):
    """A network, its cache, a text's rows in it, and their features if wanted.

    The features of a row are the hidden states of chosen layers, side by side: what a head reads.
    """

    network: PreTrainedModel
    function: CausalPass

    def __init__(
        self,
        network: PreTrainedModel,
        limits: ModelLimits,
        max_model_len: int,
        chunk: int = 512,
        num_seats: int = 1,
        kept: Kept | None = None,
    ) -> None:
        function = CausalPass(network, limits.window, ())
        super().__init__(function, limits, max_model_len, chunk, num_seats, kept=kept)
        function.states = self.strips.states
        self.seating = "as given"
        """Why there are so many seats."""
        self.fingerprint = ""
        """Of the weights of a checkpoint, as they were loaded."""
        self.num_parameters = sum(parameter.numel() for parameter in network.parameters())

    @property
    def num_layers(self) -> int:
        """Decoder layers, so that `hidden_states` has one entry more."""
        return int(self.network.config.get_text_config().num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return int(self.network.config.get_text_config().hidden_size)

    @property
    def embedding(self) -> Tensor:
        """The embedding of every token: (vocabulary, hidden)."""
        return cast(Tensor, self.network.get_input_embeddings().weight)

    @property
    def output_matrix(self) -> Tensor:
        """What turns the last hidden state into logits: (vocabulary, hidden)."""
        return cast(Tensor, self.network.get_output_embeddings().weight)

    def keep_features(self, layers: Sequence[int]) -> None:
        """From now on keep the hidden states of `layers`; of none, if it is empty.

        Layer i is transformers' `hidden_states[i]`: what enters layer i, and at the end what the
        output matrix reads. A change forgets the text, whose rows lack them.
        """
        if tuple(layers) != self.function.feature_layers:
            self.function = CausalPass(self.network, self.limits.window, layers)
            self.function.states = self.strips.states
            self.strips.forget()

    def features(self, seat: int, start: int, end: int) -> Tensor:
        """Features of committed tokens `start` to `end` of a seat: (rows, layers * hidden)."""
        rows = self.strips.seats[seat]
        if not 0 <= start <= end <= len(rows.tokens):
            raise ValueError(f"no features of rows {start} to {end} are kept")
        return self.strips.cache.features(rows.first + start, rows.first + end)

    def _forward(self, parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        extents = (part.extent for part in parts)
        logits, *features = self.runner.run(inputs, (), extents)
        if features:
            for part, states in zip(parts, split(parts, features[0]), strict=True):
                self.strips.cache.write_features(part.slots[0], states)
        return logits

    def check_seam(self) -> Self:
        """Prove that this model obeys masks and positions, or refuse it.

        The end of a tree's branch must score the same behind its siblings as it does in a text of
        its own without a cache, and the end of a long text as in stock transformers. Where layers
        keep a state, what is scored in two passes and behind an accepted branch must be right, too.
        Raises ModelLoadError: an architecture that ignored the mask would corrupt text silently.
        """
        tokens = [token % self.limits.vocab_size for token in (33, 1, 5, 9, 17, 41)]
        first, root, sibling, *rest = tokens
        context, branch, path = [first, root], [root, *rest], rest[:2]
        # The first of two equal ends is in causal order behind all that comes before it: it has
        # what a network that knows of no other order would make of a tree.
        tree = TokenTree.from_parents([root, sibling, *path, *path], [-1, 0, 1, 2, 0, 4])
        scored = self._scored(context, tree)
        blind, branched = scored[[3]], scored[[5]]
        own = without_cache(self.network, [first, *branch]).float()
        straight = own[[3]]
        if self.strips.states is not None:
            straight = own[[3, 3, 4]]
            branched = torch.cat([branched, self._continued(context, tree, branch)])
        self.strips.forget()
        if not straight.isfinite().all():
            raise ModelLoadError(
                f"{type(self.network).__name__} scores tokens with numbers that "
                f"{str(self.dtype).removeprefix('torch.')} cannot hold: choose another dtype, such "
                "as float32."
            )
        error, blindness = (branched - straight).abs().max(), (blind - straight[:1]).abs().max()
        if not error < 0.1 * blindness:
            raise ModelLoadError(
                f"{type(self.network).__name__} does not follow the tree mask and the positions "
                f"that it is given (error {error:.2g} on a branching tree, {blindness:.2g} for a "
                "network blind to it); this architecture cannot be served in this precision."
            )
        check_far(self.network, self.limits.vocab_size, self.limits.window, self.max_model_len)
        return self

    def _scored(self, context: Sequence[int], tree: TokenTree) -> Tensor:
        """The logits of all nodes, (nodes, vocabulary), in float32, from a fresh cache."""
        self.strips.forget()
        return self.score([Tokens([*context])], tree).float()

    def _continued(self, context: Sequence[int], tree: TokenTree, branch: Sequence[int]) -> Tensor:
        """The last node's in a second pass, and what follows the branch when it is accepted."""
        self.strips.forget()
        text = Tokens([*context])
        self.score([text], tree, range(2))
        in_turns = self.score([text], tree, range(2, len(tree)))[-1:]
        self.commit([text], tree, [[0, 4, 5]])
        text.tokens += branch[1:]
        return torch.cat([in_turns, self.score([text], TokenTree(branch[-1]))]).float()
