"""A text being written: a request, what it has come to so far, and where it ends.

Knows nothing of networks, trees' sizes or drafters; it lives as long as its request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch

from engine.economy import Economy
from engine.request import FinishReason, GenerateRequest
from engine.sampling import Sampler
from engine.stats import SpeculationStats
from engine.tree import TokenTree


@dataclass(slots=True)
class Text:
    """Committed tokens, of which the last is the root of the next tree, and the rule of choice.

    No tree may reach deeper than `max_depth`, and a node that holds one of `stop_ids` gets no
    children, since the text would end there. `economy` says what a stage's claims are worth and
    which passes pay. `reason` tells why the text has ended, None while it goes on.
    """

    tokens: list[int]
    sampler: Sampler
    stop_ids: frozenset[int] = frozenset()
    max_depth: int = 0
    economy: Economy = field(default_factory=Economy)
    num_left: int = 0
    reason: FinishReason | None = None
    stats: SpeculationStats = field(default_factory=SpeculationStats)

    @classmethod
    def of(
        cls,
        request: GenerateRequest,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        device: torch.device,
        economy: Economy,
    ) -> Self:
        """The text of a request that has been checked, its prompt alone."""
        eos = () if request.ignore_eos else eos_token_ids
        return cls(
            tokens=list(request.prompt),
            sampler=Sampler(request.sampling, vocab_size, device),
            stop_ids=frozenset((*request.stop_token_ids, *eos)),
            economy=economy,
            num_left=request.max_tokens,
        )

    @property
    def root_position(self) -> int:
        """The index of the root in the model's whole input; a node's is this plus its depth."""
        return len(self.tokens) - 1

    def can_extend(self, tree: TokenTree, node: int) -> bool:
        """Whether anything may be proposed below this node."""
        is_end = node > 0 and tree.tokens[node] in self.stop_ids
        return tree.depths[node] < self.max_depth and not is_end

    def take(self, emitted: Sequence[int]) -> int:
        """Keep a step's tokens up to the end of the text, if that is among them; how many."""
        kept = list(emitted[: self.num_left])
        ends = (place for place, token in enumerate(kept) if token in self.stop_ids)
        if (end := next(ends, None)) is not None:
            del kept[end + 1 :]
            self.reason = "stop"
        elif len(kept) == self.num_left:
            self.reason = "length"
        self.tokens.extend(kept)
        self.num_left -= len(kept)
        return len(kept)
