"""From a list of stage configurations to one drafter: each stage wraps the one below it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig, StageConfig
from engine.drafting.base import Drafter, NoStage
from engine.drafting.katz import KatzTable
from engine.drafting.model import ModelDrafter
from engine.drafting.ngram import NgramDrafter
from engine.errors import ModelLoadError
from engine.loading import load_model, resolve
from engine.model import Model

_PADDING = 0.01
"""Families pad one vocabulary to different sizes; a larger difference is another tokenizer."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a stage needs to know to be built: the engine's settings and the target it drafts for."""

    config: EngineConfig
    target: Model


def build_drafter(
    around: Surroundings, on_stage: Callable[[StageConfig], None] = lambda _: None
) -> Drafter:
    """Fold the configured stages from the lowest up; `on_stage` hears of each before it loads."""
    drafter: Drafter = NoStage()
    names = stage_names(around.config.stages)
    for stage, name in zip(reversed(around.config.stages), reversed(names), strict=True):
        on_stage(stage)
        drafter = _BUILDERS[type(stage)](stage, name, drafter, around)
    return drafter


def stage_names(stages: tuple[StageConfig, ...]) -> tuple[str, ...]:
    """The name of each stage, by kind; stages of one kind are numbered from the second on."""
    names: list[str] = []
    for stage in stages:
        count = sum(type(stage) is type(earlier) for earlier in stages[: len(names)])
        names.append(f"{stage.name}{count + 1}" if count else stage.name)
    return tuple(names)


def _build_model(
    stage: ModelStageConfig, name: str, below: Drafter, around: Surroundings
) -> Drafter:
    config, target = around.config, around.target
    model = load_model(
        stage.model,
        dtype=config.dtype,
        device=config.device,
        max_model_len=target.max_model_len,
        chunk=config.prefill_chunk,
    )
    check_vocabulary(stage.model, model, target)
    return ModelDrafter(stage, model, below, name, target.limits.vocab_size)


def check_vocabulary(name: str, draft: Model, target: Model) -> None:
    """Refuse a draft with another tokenizer; one that differs in padding alone is padded to fit."""
    drafts, targets = draft.limits.vocab_size, target.limits.vocab_size
    if abs(drafts - targets) > _PADDING * targets:
        raise ModelLoadError(
            f"the draft {name!r} has {drafts} tokens and the target {targets}: a draft must share "
            "its target's tokenizer. Name a draft of the same family, or none."
        )
    if drafts < targets:
        draft.pad_vocabulary(targets)


def _build_ngram(
    stage: NgramStageConfig, name: str, below: Drafter, around: Surroundings
) -> Drafter:
    if not isinstance(below, NoStage):
        raise ModelLoadError("an n-gram stage asks no stage below it: it must be the last one.")
    table = KatzTable.load(resolve(stage.table)) if stage.table is not None else None
    if table is not None and table.vocab_size > around.target.limits.vocab_size:
        raise ModelLoadError(
            f"the table {stage.table!r} has {table.vocab_size} tokens and the target "
            f"{around.target.limits.vocab_size}: it belongs to another tokenizer."
        )
    return NgramDrafter(stage, table, name)


_BUILDERS: Mapping[type[StageConfig], Callable[[Any, str, Drafter, Surroundings], Drafter]] = {
    ModelStageConfig: _build_model,
    NgramStageConfig: _build_ngram,
}
