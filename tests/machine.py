"""A machine that a test invents: networks of known cost and skill, on a clock that they move.

The loop, the drafters and the economy are the real ones; only the networks and the time are not.
So what a choice of trees costs can be told to the millisecond, whatever the machine beneath.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from engine.config import ModelStageConfig
from engine.decoder import Decoder
from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import LookupSource
from engine.drafting.stage import Drafter, NoStage
from engine.kv_cache import Cache
from engine.model import Model
from engine.parts import Part
from engine.passes import PassFunction, PassInputs
from engine.request import GenerateRequest, Output, SamplingParams, Speculation
from engine.scorer import ModelLimits, TreeScorer

VOCAB_SIZE = 64

TARGET_MS: Mapping[int, float] = {1: 1.3, 8: 1.7, 32: 2.3, 64: 3.0, 512: 12.0}
DRAFT_MS: Mapping[int, float] = {1: 0.45, 8: 0.7, 32: 0.8, 64: 1.0, 512: 4.0}
HOST_MS = 0.1

Forecast = Callable[[int], Mapping[int, float]]
"""From a position in the text to what a network says of the token there, as probabilities."""


@dataclass
class Clock:
    """Milliseconds since the beginning; networks move it on."""

    milliseconds: float = 0.0
    noise: float = 0.0
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def spend(self, milliseconds: float) -> None:
        """Let time pass, more or less as much as this."""
        self.milliseconds += milliseconds * self.dice.uniform(1 - self.noise, 1 + self.noise)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The whole program reads this clock."""
        with mock.patch("time.perf_counter", lambda: self.milliseconds / 1e3):
            yield


class InventedPass(PassFunction):
    """A network that runs no passes, and has as good as no rows."""

    description = "invented"
    layers = ()

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(1, 1)

    def probe(self, cache: Cache) -> None:
        cache.update(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0)

    def forward(self, *inputs: object, **options: object) -> tuple[Tensor, ...]:
        raise NotImplementedError("an invented network runs no passes")


class InventedModel(TreeScorer):
    """A network that says of a position what it is told to, in the time that it is told to take."""

    def __init__(self, clock: Clock, cost: Mapping[int, float], forecast: Forecast) -> None:
        limits = ModelLimits(VOCAB_SIZE, 8192)
        super().__init__(InventedPass(), limits, 8192, 512)
        self.cost, self.forecast = cost, forecast
        self._clock = clock

    def _forward(self, parts: Sequence[Part], inputs: PassInputs) -> Tensor:
        (part,), rows = parts, inputs.width
        self._clock.spend(float(np.interp(rows, list(self.cost), list(self.cost.values()))))
        positions = part.positions[len(part.ids) - len(part.nodes) :]
        logits = torch.full((len(positions), VOCAB_SIZE), 1e-4)
        for row, position in enumerate(positions):
            for token, probability in self.forecast(position + 1).items():
                logits[row, token] = probability
        return logits.log()


def skilled(text: Sequence[int], skills: Sequence[float], claim: float | None = None) -> Forecast:
    """Right at a position as often as one of `skills` says, and as sure, unless it claims more."""

    def forecast(position: int) -> Mapping[int, float]:
        dice = random.Random(position * 7919 + 1)
        skill = skills[position // 4 % len(skills)]
        ranked = dice.sample(range(VOCAB_SIZE), 6)
        truth = text[position % len(text)]
        ranked = [token for token in ranked if token != truth]
        place, left = 0, 1.0
        while place < 4 and dice.random() > skill:
            place += 1
        if place < 4:
            ranked.insert(place, truth)
        sure = skill if claim is None else claim
        said = {}
        for token in ranked[:4]:
            said[token] = left * sure
            left *= 1 - sure
        return said

    return forecast


@dataclass
class Machine:
    """A text that the target writes, and what drafts for it."""

    text: Sequence[int]
    skills: Sequence[float] = (0.9, 0.5, 0.7)
    claim: float | None = None
    target_ms: Mapping[int, float] = field(default_factory=lambda: TARGET_MS)
    draft_ms: Mapping[int, float] = field(default_factory=lambda: DRAFT_MS)
    noise: float = 0.1
    budget: int = 48
    passes: int = 6
    width: int = 8
    guesses: int = 48
    has_draft: bool = True
    has_ngram: bool = True

    def __post_init__(self) -> None:
        self.clock = Clock(noise=self.noise)
        truth = lambda position: {self.text[position % len(self.text)]: 1.0}  # noqa: E731
        target = InventedModel(self.clock, self.target_ms, truth)
        host = target.commit

        def commit(*arguments: object) -> None:
            self.clock.spend(HOST_MS)
            host(*arguments)  # type: ignore[arg-type]

        target.commit = commit  # type: ignore[method-assign]
        drafter: Drafter = NoStage()
        if self.has_ngram:
            drafter = ModelFreeDrafter([LookupSource("ngram")], self.guesses, 2)
        if self.has_draft:
            forecast = skilled(self.text, self.skills, self.claim)
            self.draft = InventedModel(self.clock, self.draft_ms, forecast)
            sizes = ModelStageConfig("", self.budget, self.passes, self.width)
            drafter = ModelDrafter(sizes, self.draft, drafter, "draft", VOCAB_SIZE)
        self.decoder = Decoder(cast(Model, target), drafter)

    def become_skilled(self, skills: Sequence[float]) -> None:
        """From now on the draft is right as often as this, and says so."""
        self.draft.forecast = skilled(self.text, skills)

    def measure(self) -> None:
        """Time the passes, as an engine does when it has been loaded."""
        with self.clock.running():
            self.decoder.measure()

    def play(
        self, num_tokens: int = 512, speculation: Speculation = "auto", start: int = 40
    ) -> tuple[float, list[Output]]:
        """Decode: milliseconds of a token, reading the prompt not counted, and the steps."""
        prompt = tuple(self.text[i % len(self.text)] for i in range(start))
        request = GenerateRequest(
            "r", prompt, num_tokens, SamplingParams(0.0), speculation=speculation
        )
        with self.clock.running():
            items = self.decoder.generate(request)
            steps = [cast(Output, next(items))]
            began = self.clock.milliseconds
            steps += [item for item in items if isinstance(item, Output)]
        return (self.clock.milliseconds - began) / (num_tokens - 1), steps


def random_text(length: int = 8192, seed: int = 0) -> list[int]:
    """Tokens without any order."""
    dice = random.Random(seed)
    return [dice.randrange(VOCAB_SIZE) for _ in range(length)]


def copied_text(length: int = 8192, period: int = 600, error: float = 0.02) -> list[int]:
    """A passage again and again, each time with some tokens changed."""
    dice = random.Random(1)
    passage = random_text(period, 2)
    text = list(passage)
    while len(text) < length:
        text += [dice.randrange(VOCAB_SIZE) if dice.random() < error else t for t in passage]
    return text
