"""A new kind of stage is a configuration, a drafter and a line of the builder, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import pytest

from engine.api import Engine
from engine.benchmark import modes_of
from engine.config import (
    STAGE_KINDS,
    EngineConfig,
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    StageConfig,
)
from engine.drafting import build
from engine.drafting.stage import NoStage
from engine.economy import Step
from engine.request import Finished, GenerateRequest, Output, SamplingParams


@dataclass(frozen=True, slots=True)
class EchoStageConfig(StageConfig):
    """Proposes the last token again."""

    name: ClassVar[str] = "echo"
    budget: int = 2

    def resized(self, budget: int, passes: int) -> Self:
        return replace(self, budget=budget)

    def chain(self, length: int) -> Self:
        return replace(self, budget=length)


class EchoDrafter(NoStage):
    name = "echo"

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def grow(self, step: Step, leaves: Sequence[int], budget: int) -> list[int]:
        step.turn(self.name)
        node, proposed = leaves[0], []
        while len(proposed) < budget and step.can_extend(node):
            token = step.tree.tokens[node]
            estimate = step.claims.believe(node, token, (self.name,), -0.5)
            node = step.tree.add(node, token, estimate, self.name)
            proposed.append(node)
        return proposed


@pytest.fixture
def engine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One that drafts with the new kind."""
    monkeypatch.setitem(STAGE_KINDS, "echo", EchoStageConfig)  # type: ignore[arg-type]
    echo = lambda builder, stage, name, below: EchoDrafter(stage.budget)  # noqa: E731
    monkeypatch.setitem(build._BUILDERS, EchoStageConfig, echo)  # type: ignore[arg-type]
    stages = [{"kind": "echo", "budget": 3}]
    mapping = {"model": str(checkpoint), "stages": stages, "dtype": "float32"}
    return Engine.load(EngineConfig.from_mapping({**mapping, "compile": "never"}))


def text(engine: Engine, request: GenerateRequest) -> tuple[list[int], int]:
    """A reply, and how many nodes were proposed for it."""
    *steps, finished = engine.generate(request)
    assert isinstance(finished, Finished)
    outputs = [step for step in steps if isinstance(step, Output)]
    tokens = [token.token_id for step in outputs for token in step.tokens]
    return tokens, sum(step.stats.num_nodes - 1 for step in outputs)


def test_a_new_kind_is_named_run_and_compared(engine: Engine) -> None:
    """Red when some room has a list of its own of the kinds that there are."""
    assert engine.info.stages == ("echo",) and list(engine.scorers) == ["target"]
    request = GenerateRequest("r", (5, 9, 9), 12, SamplingParams(0.0), ignore_eos=True)
    plain, num_nodes = text(engine, replace(request, speculation="off"))
    assert num_nodes == 0
    drafted, num_nodes = text(engine, replace(request, speculation="always"))
    assert drafted == plain and num_nodes > 0
    modes = modes_of(engine.config.stages)
    assert any(mode.stages == engine.config.stages for mode in modes)


@pytest.mark.parametrize(
    ("stage", "checkpoint", "reads_target", "passes", "num_rows"),
    [
        (NgramStageConfig(budget=5), None, False, 0, 5),
        (ModelStageConfig("m", budget=5, passes=3, width=4), "m", False, 3, 2 * 3 * (4 + 1)),
        (HeadStageConfig("h", budget=90, passes=3, width=4), "h", True, 3, 90),
    ],
)
def test_a_stage_answers_for_itself(
    stage: StageConfig,
    checkpoint: str | None,
    reads_target: bool,
    passes: int,
    num_rows: int,
) -> None:
    """Here asked twice in a step, with one guess from below each time."""
    assert (stage.checkpoint, stage.reads_target, stage.passes) == (
        checkpoint,
        reads_target,
        passes,
    )
    assert stage.num_rows(2, 1) == num_rows
    assert stage.resized(7, 2).budget == 7
    chain = stage.chain(3)
    assert type(chain) is type(stage) and chain.budget == 3
