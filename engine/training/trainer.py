"""Training towards an objective on a packed token stream, within a budget of minutes, resumable.

The clock counts training time over all sittings, so a run that is stopped and started again ends
where an uninterrupted one would have ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.code_cache import claim_torch_caches, default_root
from engine.errors import ConfigError
from engine.training.interrupt import held_back
from engine.training.optimizer import Optimizers
from engine.training.recipe import Recipe
from engine.training.tokens import SHORTEST, Stream, draw, windows

_CHECKPOINT_SECONDS, _CHECKPOINT_SHARE = 60.0, 0.05
_MEASURE_SECONDS = 120.0
_WATCHED_LENGTH, _WATCHED_SEQUENCES = 512, 16
_LOGITS_AT_ONCE = 1 << 28


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

    @property
    def logits_per_token(self) -> int:
        """How many logits the loss of one token holds in memory."""

    def loss(self, batch: Tensor) -> Tensor:
        """The mean loss of ids [sequences, length + 1], differentiable."""

    def held_out(self, sequences: Sequence[Tensor]) -> HeldOut:
        """Measure on sequences of ids [1, length + 1], without gradients."""


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
"""Hears of a run after every step: its progress, and the share of the budget that is spent."""


def unheard(progress: Progress, spent: float) -> None:
    """The report of a run that nobody watches."""


class Run:
    """One objective in training: weights, optimisers and progress, together in a checkpoint.

    `origin` says what is trained and on what; a checkpoint of another origin is refused.
    """

    def __init__(
        self, objective: Objective, recipe: Recipe, checkpoint: Path, origin: str = ""
    ) -> None:
        self.objective = objective
        self.recipe = recipe
        self.progress = Progress()
        self._module = objective.module
        self._device = next(self._module.parameters()).device
        self._optimizers = Optimizers(self._module)
        self._loss: Callable[[Tensor], Tensor] = objective.loss
        if recipe.is_compiled:
            claim_torch_caches(default_root())
            self._loss = torch.compile(objective.loss, dynamic=False)
        self._checkpoint = checkpoint
        self._origin = origin
        if checkpoint.exists():
            self._resume()

    def train(self, stream: Stream, held_out: Stream, report: Report = unheard) -> Progress:
        """Train until the budget is spent, writing a checkpoint every minute and at the end.

        Ctrl-C ends it after the step in hand, with a checkpoint, as KeyboardInterrupt.
        """
        if len(stream) <= 2 * SHORTEST:
            raise ConfigError(f"{len(stream)} tokens are too few to train on: give more text.")
        length = min(_WATCHED_LENGTH, self.recipe.longest)
        watched = windows(held_out, length, _WATCHED_SEQUENCES, self._device)
        if self._device.type == "cuda":
            # Training does not notice that its factors are rounded, and is several times faster.
            torch.set_float32_matmul_precision("high")
        self._module.train()
        with held_back() as is_interrupted:
            self._work(stream, watched, report, is_interrupted)
            self._measure(watched)
            self.save()
        self._module.train(False)
        report(self.progress, 1.0)
        return self.progress

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; weights that are not trained are left out."""
        weights = self._module.state_dict()
        state = {
            "model": {name: weights[name] for name in weights.keys() - self._fixed()},
            "optimizers": self._optimizers.state_dict(),
            "progress": asdict(self.progress),
            "origin": self._origin,
        }
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _work(
        self,
        stream: Stream,
        watched: Sequence[Tensor],
        report: Report,
        is_interrupted: Callable[[], bool],
    ) -> None:
        """Steps until the budget is spent."""
        started_at = time.monotonic() - self.progress.seconds
        saved_at = measured_at = time.monotonic()
        save_seconds = 0.0
        if not self.progress.held_out:
            self._measure(watched)
        while (spent := self.progress.spent(self.recipe)) < 1:
            self._step(stream, spent)
            now = time.monotonic()
            is_due = self.progress.step % self.recipe.measure_every == 0
            if is_due or now - measured_at > _MEASURE_SECONDS:
                self._measure(watched)
                measured_at = time.monotonic()
            self.progress.seconds = time.monotonic() - started_at
            report(self.progress, spent)
            if is_interrupted():
                self.save()
                raise KeyboardInterrupt
            if now - saved_at > max(_CHECKPOINT_SECONDS, save_seconds / _CHECKPOINT_SHARE):
                self.save()
                saved_at = time.monotonic()
                save_seconds = saved_at - now

    def _fixed(self) -> set[str]:
        """Names of the weights that are not trained, such as those a head shares."""
        named = self._module.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(
            self._checkpoint, map_location=self._device, weights_only=True
        )
        remedy = "delete it, or choose another work folder."
        # A checkpoint without an origin is taken at its word.
        if (origin := state.get("origin")) and self._origin and origin != self._origin:
            raise ConfigError(f"{self._checkpoint} is of another run ({origin}): {remedy}")
        fixed = self._fixed()
        weights = {name: state["model"][name] for name in state["model"].keys() - fixed}
        try:
            missing = set(self._module.load_state_dict(weights, strict=False)[0]) - fixed
        except RuntimeError:
            missing = {"its shape"}
        if missing or weights.keys() - self._module.state_dict().keys():
            raise ConfigError(f"{self._checkpoint} holds a model of another shape: {remedy}")
        self._optimizers.load_state_dict(state["optimizers"])
        self.progress = Progress(**state["progress"])

    def _measure(self, watched: Sequence[Tensor]) -> None:
        if self.progress.held_out and self.progress.held_out[-1][0] == self.progress.step:
            return
        self._module.train(False)
        measured = self.objective.held_out(watched)
        self._module.train()
        self.progress.held_out.append((self.progress.step, measured.loss))
        self.progress.agreement = measured.agreement

    def _step(self, stream: Stream, spent: float) -> None:
        length = min(self.recipe.length_at(spent), len(stream) // 2)
        num_sequences = max(1, self.recipe.batch_tokens // length)
        batch = draw(stream, self.progress.sequences, num_sequences, length).to(self._device)
        loss = self._backward(batch)
        trained = [p for p in self._module.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self._optimizers.step(self.recipe.rate_at(spent))
        self.progress.step += 1
        self.progress.sequences += num_sequences
        self.progress.tokens += num_sequences * length
        self.progress.losses.append(loss)

    def _backward(self, batch: Tensor) -> float:
        """The mean loss of a batch, its gradients summed over parts whose logits fit memory."""
        per_sequence = self.objective.logits_per_token * batch.shape[1]
        total = 0.0
        for part in torch.split(batch, max(1, _LOGITS_AT_ONCE // per_sequence)):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.is_half):
                loss = self._loss(part) * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total
