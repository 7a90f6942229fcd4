"""What a language model is trained towards: the text itself, or a teacher's opinion of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from engine.training.trainer import HeldOut


class NextToken:
    """The next token of the text: for a target, or for a draft from plain text.

    With a `teacher` the held-out agreement is with its first choices, else with the text.
    """

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel | None = None) -> None:
        self.model = model
        self._teacher = teacher

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    @property
    def logits_per_token(self) -> int:
        """The model's vocabulary."""
        return vocabulary(self.model)

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy of the next token in nats."""
        return next_token_losses(self.model, batch).mean()

    @torch.no_grad()
    def held_out(self, sequences: Sequence[Tensor]) -> HeldOut:
        """Mean cross-entropy, and the share of first choices that are right."""
        equal = []
        for ids in sequences:
            wanted = ids[:, 1:] if self._teacher is None else logits(self._teacher, ids).argmax(-1)
            equal.append((logits(self.model, ids).argmax(-1) == wanted).flatten())
        agreement = torch.cat(equal).float().mean().item()
        return HeldOut(mean_loss(self.model, sequences), (agreement,))


class Distilled(NextToken):
    """A teacher's distribution over the next token: for a draft of a known target."""

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__(model, teacher)
        self._known = teacher.requires_grad_(False)

    @property
    def logits_per_token(self) -> int:
        """Both vocabularies."""
        return vocabulary(self.model) + vocabulary(self._known)

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy against the teacher's distribution in nats."""
        return soft_cross_entropy(logits(self.model, batch), self._teach(batch))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _teach(self, batch: Tensor) -> Tensor:
        """The teacher's probabilities [sequences, length, vocabulary]."""
        return logits(self._known, batch).softmax(-1)


def vocabulary(model: PreTrainedModel) -> int:
    """How many logits a model gives a token."""
    return int(model.config.get_text_config().vocab_size)


def logits(model: PreTrainedModel, batch: Tensor) -> Tensor:
    """Logits [sequences, length, vocabulary] for ids [sequences, length + 1], the last left out."""
    computed: Tensor = model(input_ids=batch[:, :-1], use_cache=False).logits
    return computed.float()


def soft_cross_entropy(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean of -sum(wanted * log softmax(given)) in nats, for tensors [..., vocabulary]."""
    return -(wanted * given.log_softmax(-1)).sum(-1).mean()


def next_token_losses(model: PreTrainedModel, batch: Tensor) -> Tensor:
    """Cross-entropies in nats of the next token, [sequences * length], for ids [_, length + 1]."""
    given = logits(model, batch).flatten(0, 1)
    return F.cross_entropy(given, batch[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def mean_loss(model: PreTrainedModel, sequences: Iterable[Tensor]) -> float:
    """Mean cross-entropy in nats per token over sequences of ids [_, length + 1]."""
    was_training = model.training
    model.train(False)
    losses = [next_token_losses(model, batch.to(model.device)) for batch in sequences]
    model.train(was_training)
    return torch.cat(losses).mean().item()
