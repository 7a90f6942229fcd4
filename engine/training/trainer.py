"""Training towards an objective on a packed token stream, within a budget of minutes, resumable.

The clock counts training time over all sittings, so a run that is stopped and started again ends
where an uninterrupted one would have ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.training.optimizer import Optimizers

Stream = NDArray[np.unsignedinteger[Any]]
"""Token ids [N] of many texts, one after the other, each closed by an end of text."""

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


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What files held out say: a loss in nats per token, and how often first choices agree.

    `agreement[k]` is the share of positions at which the first choice for the (k+1)-th token ahead
    is that of the teacher, or of the text where there is no teacher.
    """

    loss: float
    agreement: tuple[float, ...]


class Objective(Protocol):
    """What is trained, and towards what."""

    @property
    def module(self) -> nn.Module:
        """Holds every weight that is trained."""

    def loss(self, batch: Tensor) -> Tensor:
        """The mean loss of ids [sequences, length + 1], differentiable."""

    def held_out(self, sequences: Sequence[Tensor]) -> HeldOut:
        """Measure on sequences of ids [1, length + 1]."""


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps, sequences and tokens seen, seconds of training, its curves."""

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    agreement: tuple[float, ...] = ()

    def spent(self, recipe: Recipe) -> float:
        """The share of the budget that is used up, at least 1 when the run is over."""
        by_steps = self.step / recipe.max_steps if recipe.max_steps else 0.0
        return max(self.seconds / (60 * recipe.minutes), by_steps)

    @property
    def tokens_per_second(self) -> float:
        """Training speed over all sittings."""
        return self.tokens / self.seconds if self.seconds else 0.0


Report = Callable[[Progress, float], None]
"""Hears of a run after some steps: its progress, and the share of the budget that is spent."""


class Run:
    """One objective in training: weights, optimisers and progress, together in a checkpoint."""

    def __init__(self, objective: Objective, recipe: Recipe, checkpoint: Path) -> None:
        self.objective = objective
        self.recipe = recipe
        self.progress = Progress()
        self._module = objective.module
        self._device = next(self._module.parameters()).device
        self._optimizers = Optimizers(self._module)
        self._loss: Callable[[Tensor], Tensor] = objective.loss
        if recipe.is_compiled:
            self._loss = torch.compile(objective.loss, dynamic=False)
        self._checkpoint = checkpoint
        if checkpoint.exists():
            self._resume()

    def train(
        self,
        stream: Stream,
        held_out: Stream,
        report: Report = lambda progress, spent: None,
    ) -> Progress:
        """Train until the budget is spent, writing a checkpoint every minute and at the end."""
        self._module.train()
        watched = windows(held_out, _WATCHED_LENGTH, _WATCHED_SEQUENCES, self._device)
        saved_at = time.monotonic()
        started_at = saved_at - self.progress.seconds
        while (spent := self.progress.spent(self.recipe)) < 1:
            self._step(stream, spent)
            self.progress.seconds = time.monotonic() - started_at
            if self.progress.step % self.recipe.report_every == 0:
                self._measure(watched)
                report(self.progress, spent)
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                self.save()
                saved_at = time.monotonic()
        self._measure(watched)
        self.save()
        self._module.train(False)
        report(self.progress, 1.0)
        return self.progress

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self._module.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "progress": asdict(self.progress),
        }
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        try:
            self._module.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ConfigError(
                f"{self._checkpoint} holds a model of another shape: delete it, or choose another "
                "work folder."
            ) from error
        self._optimizers.load_state_dict(state["optimizers"])
        self.progress = Progress(**state["progress"])

    def _measure(self, watched: Sequence[Tensor]) -> None:
        self._module.train(False)
        with torch.no_grad():
            measured = self.objective.held_out(watched)
        self._module.train()
        self.progress.held_out.append((self.progress.step, measured.loss))
        self.progress.agreement = measured.agreement

    def _step(self, stream: Stream, spent: float) -> None:
        length = self.recipe.length_at(spent)
        num_sequences = max(1, self.recipe.batch_tokens // length)
        batch = draw(stream, self.progress.sequences, num_sequences, length).to(self._device)
        loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [p for p in self._module.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self._optimizers.step(self.recipe.rate_at(spent))
        self.progress.step += 1
        self.progress.sequences += num_sequences
        self.progress.tokens += num_sequences * length
        self.progress.losses.append(loss.item())


def draw(stream: Stream, first: int, count: int, length: int) -> Tensor:
    """Sequences `first` to `first + count` of a fixed endless order: ids [count, length + 1].

    Starts follow multiples of the golden ratio, which cover the stream evenly from the first
    sequence on, with no state and no repetition.
    """
    room = len(stream) - length
    starts = (np.arange(first, first + count) * _GOLDEN % 1.0 * room).astype(np.int64)
    windows = np.stack([stream[start : start + length + 1] for start in starts])
    return torch.from_numpy(windows.astype(np.int64))


def windows(
    stream: Stream, length: int, at_most: int, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """At most so many sequences of ids [1, length + 1], evenly spread over a stream."""
    starts = range(0, len(stream) - length, length)
    stride = max(1, len(starts) // at_most)
    pieces = (stream[start : start + length + 1] for start in starts[::stride][:at_most])
    return [torch.from_numpy(piece.astype(np.int64))[None].to(device) for piece in pieces]
