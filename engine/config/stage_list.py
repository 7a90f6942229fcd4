"""Lists of stages, from the one nearest the target downwards: read from mappings, and checked."""

from collections.abc import Mapping, Sequence

from engine.config.stages import (
    HeadStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
    StageConfig,
)
from engine.errors import ConfigError, did_you_mean
from engine.geometry import MAX_TREE_ROWS, MOST_FORCED

STAGE_KINDS: Mapping[str, type[StageConfig]] = {
    "head": HeadStageConfig,
    "model": ModelStageConfig,
    "ngram": NgramStageConfig,
    "recycle": RecycleStageConfig,
}


def below_drafter(stages: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """The stages that a network in the first place stands above: all, if there is none."""
    return tuple(stages[1:] if stages and stages[0].checkpoint is not None else stages)


def stages_of(mapping: Mapping[str, object], key: str, where: str) -> tuple[StageConfig, ...]:
    """The stages that a mapping lists under `key`, each a mapping with a `kind`."""
    stages = mapping.get(key) or []
    if not isinstance(stages, list | tuple):
        raise ConfigError(f"{where}{key} must be a list of stages, but it is {stages!r}.", key)
    try:
        return tuple(_stage(item, f"{where}{key}[{i}].") for i, item in enumerate(stages))
    except ConfigError as error:
        error.key = key  # and not one of the stage's own
        raise


def _stage(item: object, where: str) -> StageConfig:
    if isinstance(item, StageConfig):
        return item
    if not isinstance(item, Mapping) or "kind" not in item:
        raise ConfigError(f"{where[:-1]} needs a `kind`, one of {', '.join(STAGE_KINDS)}.")
    kind = str(item["kind"])
    if kind not in STAGE_KINDS:
        raise ConfigError(
            f"{where}kind: unknown kind {kind!r}. {did_you_mean(kind, list(STAGE_KINDS))}"
        )
    rest = {key: value for key, value in item.items() if key != "kind"}
    return STAGE_KINDS[kind].from_mapping(rest, where)


def check_stages(stages: Sequence[StageConfig], where: str) -> None:
    """Refuse a list whose order is wrong, or whose trees would outgrow the rows kept for them."""
    for i, (stage, num_rows) in enumerate(zip(stages, most_nodes(stages), strict=True)):
        if i and stage.reads_target:
            raise ConfigError(
                f"{where}stages[{i}] is a {stage.name}: it reads the target, so it must be the "
                "first stage.",
                "stages",
            )
        if num_rows > MAX_TREE_ROWS:
            raise ConfigError(
                f"{where}stages[{i}] could make {num_rows} nodes in a step, more than "
                f"{MAX_TREE_ROWS}: lower its budget, passes or width, or the budget below it.",
                "stages",
            )


def most_nodes(stages: Sequence[StageConfig]) -> list[int]:
    """The most nodes that each stage may hold in a step."""
    found, num_calls = [], 1
    for i, stage in enumerate(stages):
        num_guesses = stages[i + 1].budget if i + 1 < len(stages) else MOST_FORCED
        found.append(stage.num_rows(num_calls, num_guesses))
        num_calls *= max(1, stage.passes)
    return found
