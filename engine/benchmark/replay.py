"""A drafter of chosen quality: it replays a recorded text with as many wrong tokens as asked for.

It runs no model, so a step costs what the engine itself costs, and τ is known beforehand:

    engine = ReplayEngine.load(EngineConfig("embedded/target"))
    stage = ReplayStageConfig(recordings=record(engine, workload), acceptance=0.8, budget=4)
    compare(engine, [Mode("plain", (), "off"), Mode("replay", (stage,))], workload, 5)

For benchmarks alone: no configuration can name it.
"""

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from engine.api import Engine
from engine.benchmark.measure import Workload
from engine.config import ModelFreeStageConfig, StageConfig
from engine.drafting.stage import NoStage
from engine.economy import Step
from engine.request import GenerateRequest, Output

Recordings = Mapping[tuple[int, ...], tuple[int, ...]]
"""Replies by their prompts, in token ids."""


@dataclass(frozen=True, slots=True)
class ReplayStageConfig(ModelFreeStageConfig):
    """A chain of `budget` recorded tokens, each of them right with probability `acceptance`.

    `acceptance` is above 0 and at most 1. Which tokens are wrong depends on `seed`, the prompt and
    the position alone; at another acceptance the same ones go wrong first.
    """

    name: ClassVar[str] = "replay"
    recordings: Recordings = field(default_factory=dict)
    acceptance: float = 1.0
    seed: int = 0


class ReplayEngine(Engine):
    """An engine that takes a `ReplayStageConfig` for its only stage, too."""

    def with_stages(self, stages: Sequence[StageConfig]) -> Self:
        """The same weights behind another list of stages, or behind one replay."""
        if not stages or not isinstance(replay := stages[0], ReplayStageConfig):
            return super().with_stages(stages)
        engine = super().with_stages(())
        engine._decoder.drafter = ReplayDrafter(replay, self.info.vocab_size)
        return engine


class ReplayDrafter(NoStage):
    """Proposes the recording of the prompt from wherever the text stands; nothing without one."""

    def __init__(self, config: ReplayStageConfig, vocab_size: int) -> None:
        self.name, self.budget = config.name, config.budget
        self._config = config
        self._vocab_size = vocab_size
        self._estimate = math.log(config.acceptance)
        self._prompt: tuple[int, ...] = ()
        self._heard: list[int] = []

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        """A chain of the next `budget` tokens below the first leaf."""
        turn, text, tree = step.turn(self.name), step.texts[0], step.tree
        started = time.perf_counter()
        if text.request.prompt != self._prompt:
            self._listen(text.request.prompt)
        node = leaves[0]
        start = text.num_written + tree.depths[node]
        chain: list[int] = []
        for token in self._heard[start : start + budget]:
            if not step.can_extend(node):
                break
            node = tree.add(node, token, self._estimate, self.name)
            chain.append(node)
        turn.milliseconds += (time.perf_counter() - started) * 1e3
        return chain

    def _listen(self, prompt: tuple[int, ...]) -> None:
        """Take the recording of this prompt, with its wrong tokens."""
        chance = random.Random(repr((self._config.seed, *prompt)))
        reply = self._config.recordings.get(prompt, ())
        self._prompt, self._heard = prompt, [self._hear(token, chance) for token in reply]

    def _hear(self, token: int, chance: random.Random) -> int:
        """The token, or, when its lot says so, any other."""
        lot, distance = chance.random(), chance.randrange(1, self._vocab_size)
        is_right = lot < self._config.acceptance
        return token if is_right else (token + distance) % self._vocab_size


def record(engine: Engine, workload: Workload) -> Recordings:
    """What plain decoding replies to each prompt, seeded as `compare` seeds them."""
    recordings: dict[tuple[int, ...], tuple[int, ...]] = {}
    for index, prompt in enumerate(workload.prompts):
        request = GenerateRequest(
            request_id=str(index),
            prompt=prompt,
            max_tokens=workload.max_tokens,
            sampling=replace(workload.sampling, seed=workload.sampling.seed + index),
            stop_token_ids=workload.stop_token_ids,
            speculation="off",
        )
        steps = (item for item in engine.generate(request) if isinstance(item, Output))
        recordings[prompt] = tuple(token.token_id for step in steps for token in step.tokens)
    return recordings


def expected_length(acceptance: float, length: int) -> float:
    """τ of a chain of `length` tokens, each right with probability `acceptance`, by itself.

    The geometric sum 1 + a + ... + a^k, as in Leviathan, Kalman & Matias, Fast Inference from
    Transformers via Speculative Decoding (2211.17192).
    """
    return math.fsum(acceptance**depth for depth in range(length + 1))
