"""Causal-LM training on a packed token stream, within a budget of minutes, resumable.

The clock counts training time over all sittings, so a run that is stopped and started again ends
where an uninterrupted one would have ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from engine.training.optimizer import Optimizers

_GOLDEN = (math.sqrt(5) - 1) / 2
_CHECKPOINT_SECONDS = 60.0
_WATCHED_LENGTH, _WATCHED_SEQUENCES = 512, 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how to train; the budget is spent when minutes or steps are, whichever first."""

    minutes: float
    max_steps: int | None = None
    batch_tokens: int = 4096
    lengths: tuple[tuple[float, int], ...] = ((0.0, 256), (0.75, 512), (0.92, 1024))
    warmup_share: float = 0.02
    decay_share: float = 0.6
    report_every: int = 50
    seed: int = 17
    is_compiled: bool = False

    def length_at(self, spent: float) -> int:
        """Tokens per sequence once a share of the budget is spent: the longer ones come last."""
        return max(length for start, length in self.lengths if start <= spent)

    def rate_at(self, spent: float) -> float:
        """The factor on the learning rates: linear warm-up, a plateau, a cosine to zero."""
        if spent < self.warmup_share:
            return max(0.02, spent / self.warmup_share)
        decayed = max(0.0, spent - (1 - self.decay_share)) / self.decay_share
        return 0.5 * (1 + math.cos(math.pi * min(1.0, decayed)))


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps, sequences and tokens seen, seconds of training, loss curve."""

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)

    def spent(self, recipe: Recipe) -> float:
        """The share of the budget that is used up, at least 1 when the run is over."""
        by_steps = self.step / recipe.max_steps if recipe.max_steps else 0.0
        return max(self.seconds / (60 * recipe.minutes), by_steps)


class Run:
    """One model in training: weights, optimisers and progress, kept together in a checkpoint."""

    def __init__(self, config: LlamaConfig, recipe: Recipe, checkpoint: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.progress = Progress()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: PreTrainedModel = LlamaForCausalLM(config).to(self.device)  # type: ignore[arg-type]
        self._optimizers = Optimizers(self.model)
        self._losses: Callable[[PreTrainedModel, Tensor], Tensor] = next_token_losses
        if recipe.is_compiled:
            self._losses = torch.compile(next_token_losses, dynamic=False)
        self._checkpoint = checkpoint
        if checkpoint.exists():
            self._resume()

    def train(
        self,
        stream: NDArray[np.uint16],
        held_out: NDArray[np.uint16],
        report: Callable[[Progress, float], None] = lambda progress, spent: None,
    ) -> PreTrainedModel:
        """Train until the budget is spent, writing a checkpoint every minute and at the end."""
        self.model.train()
        watched = windows(held_out, _WATCHED_LENGTH, _WATCHED_SEQUENCES)
        saved_at = time.monotonic()
        started_at = saved_at - self.progress.seconds
        while (spent := self.progress.spent(self.recipe)) < 1:
            self._step(stream, spent)
            self.progress.seconds = time.monotonic() - started_at
            if self.progress.step % self.recipe.report_every == 0:
                loss = mean_loss(self.model, watched)
                self.progress.held_out.append((self.progress.step, loss))
                report(self.progress, spent)
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                self.save()
                saved_at = time.monotonic()
        self.save()
        self.model.train(False)
        return self.model

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "progress": asdict(self.progress),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizers.load_state_dict(state["optimizers"])
        self.progress = Progress(**state["progress"])

    def _step(self, stream: NDArray[np.uint16], spent: float) -> None:
        length = self.recipe.length_at(spent)
        num_sequences = max(1, self.recipe.batch_tokens // length)
        batch = draw(stream, self.progress.sequences, num_sequences, length).to(self.device)
        loss = self._losses(self.model, batch).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizers.step(self.recipe.rate_at(spent))
        self.progress.step += 1
        self.progress.sequences += num_sequences
        self.progress.tokens += num_sequences * length
        self.progress.losses.append(loss.item())


def draw(stream: NDArray[np.uint16], first: int, count: int, length: int) -> Tensor:
    """Sequences `first` to `first + count` of a fixed endless order: ids [count, length + 1].

    Starts follow multiples of the golden ratio, which cover the stream evenly from the first
    sequence on, with no state and no repetition.
    """
    room = len(stream) - length
    starts = (np.arange(first, first + count) * _GOLDEN % 1.0 * room).astype(np.int64)
    windows = np.stack([stream[start : start + length + 1] for start in starts])
    return torch.from_numpy(windows.astype(np.int64))


def next_token_losses(model: PreTrainedModel, batch: Tensor) -> Tensor:
    """Cross-entropies in nats of the next token, [sequences * length], for ids [_, length + 1]."""
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")


def windows(stream: NDArray[np.uint16], length: int, at_most: int) -> list[Tensor]:
    """At most so many sequences of ids [1, length + 1], evenly spread over a stream."""
    starts = range(0, len(stream) - length, length)
    stride = max(1, len(starts) // at_most)
    pieces = (stream[start : start + length + 1] for start in starts[::stride][:at_most])
    return [torch.from_numpy(piece.astype(np.int64))[None] for piece in pieces]


@torch.no_grad()
def mean_loss(model: PreTrainedModel, sequences: Iterable[Tensor]) -> float:
    """Mean cross-entropy in nats per token over sequences of ids [_, length + 1]."""
    was_training = model.training
    model.train(False)
    losses = [next_token_losses(model, batch.to(model.device)) for batch in sequences]
    model.train(was_training)
    return torch.cat(losses).mean().item()
