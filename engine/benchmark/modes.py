"""The modes of decoding that a list of stages allows to compare."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from engine.config import (
    EngineConfig,
    ModelStageConfig,
    NgramStageConfig,
    StageConfig,
    below_drafter,
)
from engine.drafting.build import recognised, stage_names
from engine.request import Speculation

PLAIN = "plain"
_CHAIN_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of decoding: a list of stages, and whether it may fall back to plain steps."""

    name: str
    stages: tuple[StageConfig, ...]
    speculation: Speculation = "always"


def modes_of(stages: Sequence[StageConfig], alternatives: Sequence[StageConfig] = ()) -> list[Mode]:
    """What can be compared with these stages: from plain decoding up to all of them, and `auto`.

    A drafter is a model or a head that stands first: that of `stages`, or an alternative to it.
    Each makes a chain, a tree alone, and a tree over the stages below.
    """
    below = below_drafter(stages)
    first = [*stages[:1], *(recognised((stage,))[0] for stage in alternatives)]
    drafters = [stage for stage in dict.fromkeys(first) if isinstance(stage, ModelStageConfig)]
    names = stage_names(drafters)
    modes = [Mode(PLAIN, (), "off")]
    for drafter, name in zip(drafters, names, strict=True):
        # The configured drafter is the one that needs no name.
        suffix = "" if drafter in stages[:1] else f"-{name}"
        modes += [Mode(f"chain{suffix}", (_chain(drafter),)), Mode(f"tree{suffix}", (drafter,))]
    if ngrams := tuple(stage for stage in stages if isinstance(stage, NgramStageConfig)):
        modes.append(Mode("ngram", ngrams))
    if below:
        pairs = zip(drafters, names, strict=True)
        modes += [Mode(f"staged-{name}", (drafter, *below)) for drafter, name in pairs]
    if stages:
        modes.append(Mode("auto", tuple(stages), "auto"))
    return modes


def configured_mode(modes: Sequence[Mode], stages: Sequence[StageConfig]) -> str | None:
    """The mode that drafts with exactly these stages at every step; None if they are none."""
    matches = (m.name for m in modes if m.stages == tuple(stages) and m.speculation == "always")
    return next(matches, None)


def resized(config: EngineConfig, budget: int | None, passes: int | None) -> EngineConfig:
    """The same with these sizes for every model and head; raises ConfigError if they are too large.

    `budget` is the most draft nodes in a tree, `passes` the most draft passes in a step.
    """

    def resize(stage: StageConfig) -> StageConfig:
        if not isinstance(stage, ModelStageConfig):
            return stage
        return replace(stage, budget=budget or stage.budget, passes=passes or stage.passes)

    mapping = {field.name: getattr(config, field.name) for field in fields(config)}
    stages, alternatives = map(resize, config.stages), map(resize, config.alternatives)
    return EngineConfig.from_mapping(
        {**mapping, "stages": tuple(stages), "alternatives": tuple(alternatives)}
    )


def _chain(drafter: ModelStageConfig) -> ModelStageConfig:
    length = _CHAIN_LENGTH
    return replace(drafter, budget=length, passes=length, width=1, children=1)
