"""The engine's configuration: frozen dataclasses, checked from a plain mapping.

    EngineConfig.from_mapping({"model": "gpt2-large", "stages": [{"kind": "ngram"}]})

An unknown key is an error that names the nearest valid one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from engine.errors import ConfigError, did_you_mean

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Compile = Literal["background", "wait", "cached", "never"]
Positive = Annotated[int, "positive"]

MAX_TREE_ROWS = 1024
"""The most nodes that any model may have to hold for one step."""


@dataclass(frozen=True, slots=True)
class _Section:
    """A group of settings that a mapping can fill."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "") -> Self:
        """Build this section; raises ConfigError naming the key, its place and the remedy."""
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                raise ConfigError(
                    f"unknown key {where}{key!s}. {did_you_mean(str(key), known)}", str(key)
                )
        hints = get_type_hints(cls, include_extras=True)
        for key, value in mapping.items():
            if not _fits(value, hints[key]):
                expected = _describe(hints[key])
                raise ConfigError(f"{where}{key} must be {expected}, but it is {value!r}.", key)
        for field in fields(cls):
            if field.default is MISSING and field.name not in mapping:
                raise ConfigError(f"{where}{field.name} is missing: it has no default.", field.name)
        return cls(**mapping)


@dataclass(frozen=True, slots=True)
class ModelStageConfig(_Section):
    """A draft model: the tree it hands up has at most `budget` nodes.

    A step runs at most `passes` draft passes, each over at most `width` frontier nodes (and what
    the stage below guesses under them); every evaluated node gets its best `children`. Under
    `"speculation": "auto"` these are limits, of which a step takes what pays; `always` uses them
    fully.
    """

    name: ClassVar[str] = "draft"
    model: str
    budget: Positive = 32
    passes: Positive = 4
    width: Positive = 8
    children: Positive = 4


@dataclass(frozen=True, slots=True)
class HeadStageConfig(ModelStageConfig):
    """A head that reads the target's hidden states (EAGLE-3); it grows its tree like a draft model.

    It can only be the first stage, right below the target.
    """

    name: ClassVar[str] = "head"


@dataclass(frozen=True, slots=True)
class NgramStageConfig(_Section):
    """A Katz trigram table and a live look-up of the text so far; at most `budget` nodes a call.

    Under `"speculation": "auto"` the budget is a limit. Without a `table` the stage is the look-up
    alone, which needs no training and fits any target.
    """

    name: ClassVar[str] = "ngram"
    table: str | None = None
    budget: Positive = 8
    children: Positive = 2
    lookup: bool = True


StageConfig = ModelStageConfig | NgramStageConfig
STAGE_KINDS: Mapping[str, type[ModelStageConfig] | type[NgramStageConfig]] = {
    "head": HeadStageConfig,
    "model": ModelStageConfig,
    "ngram": NgramStageConfig,
}


@dataclass(frozen=True, slots=True)
class EngineConfig(_Section):
    """What to load and how to decode with it.

    `model` and a stage's `model` or `table` are a Hugging Face id, a folder, or `embedded/...` for
    the family that ships with the engine. `stages` run from the one nearest the target downwards;
    none is plain decoding. `alternatives` are drafters that only a benchmark loads, each in the
    place of the first stage. `threads` 0 leaves the number of CPU threads to torch, and takes its
    part of that number where `num_engines` processes share the machine.

    `compile` says where a CPU's compiled passes come from: they are made in the `background` and
    taken over when they are ready, made before loading ends (`wait`), taken only if an earlier
    run has left them (`cached`), or not used (`never`). They are kept in `cache_dir`, by default
    `stagetree` in the user's cache folder. On a GPU passes are captured unless it is `never`, and
    fused by torch's compiler first, some seconds a network, unless it is `cached`.
    """

    model: str
    stages: tuple[StageConfig, ...] = ()
    dtype: Dtype = "auto"
    device: str = "auto"
    max_model_len: Positive | None = None
    prefill_chunk: Positive = 512
    threads: int = 0
    num_engines: Positive = 1
    compile: Compile = "cached"
    cache_dir: str | None = None
    alternatives: tuple[StageConfig, ...] = ()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "") -> Self:
        """Build the whole configuration; `stages` is a list of mappings, each with a `kind`."""
        stages = _stages(mapping, "stages", where)
        alternatives = _stages(mapping, "alternatives", where)
        _check_sizes(stages, where)
        _check_alternatives(alternatives, stages, where)
        built = {**mapping, "stages": stages, "alternatives": alternatives}
        return super(EngineConfig, cls).from_mapping(built, where)


def below_drafter(stages: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """The stages that a model or a head in the first place stands above: all, if there is none."""
    return tuple(stages[1:] if stages and isinstance(stages[0], ModelStageConfig) else stages)


def _stages(mapping: Mapping[str, Any], key: str, where: str) -> tuple[StageConfig, ...]:
    stages = mapping.get(key) or []
    if not isinstance(stages, list | tuple):
        raise ConfigError(f"{where}{key} must be a list of stages, but it is {stages!r}.", key)
    try:
        return tuple(_stage(item, f"{where}{key}[{i}].") for i, item in enumerate(stages))
    except ConfigError as error:
        error.key = key  # and not one of the stage's own
        raise


def _stage(item: object, where: str) -> StageConfig:
    if isinstance(item, ModelStageConfig | NgramStageConfig):
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


def _check_sizes(stages: tuple[StageConfig, ...], where: str) -> None:
    """Refuse trees that would outgrow the rows that a model keeps for them."""
    num_calls = 1
    for i, stage in enumerate(stages):
        if i and isinstance(stage, HeadStageConfig):
            raise ConfigError(
                f"{where}stages[{i}] is a head: it reads the target, so it must be the first "
                "stage.",
                "stages",
            )
        num_rows = stage.budget
        if isinstance(stage, ModelStageConfig):
            num_guesses = stages[i + 1].budget if i + 1 < len(stages) else 0
            num_calls *= stage.passes
            num_rows = max(num_rows, num_calls * (stage.width + num_guesses))
        if num_rows > MAX_TREE_ROWS:
            raise ConfigError(
                f"{where}stages[{i}] could make {num_rows} nodes in a step, more than "
                f"{MAX_TREE_ROWS}: lower its budget, passes or width, or the budget below it.",
                "stages",
            )


def _check_alternatives(
    alternatives: tuple[StageConfig, ...], stages: tuple[StageConfig, ...], where: str
) -> None:
    for i, stage in enumerate(alternatives):
        if not isinstance(stage, ModelStageConfig):
            raise ConfigError(
                f"{where}alternatives[{i}] takes the place of the first stage, so it must be of "
                "kind model or head: name an n-gram stage in `stages`.",
                "alternatives",
            )
        place = f"{where}with alternatives[{i}] in the first place, "
        _check_sizes((stage, *below_drafter(stages)), place)


def _fits(value: object, hint: object) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is Annotated:
        return _fits(value, int) and value != 0
    if origin is tuple:
        return isinstance(value, tuple)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: object) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is Annotated:
        return "a whole number, 1 or more"
    if hint is type(None):
        return "null"
    if hint is int:
        return "a whole number, 0 or more"
    return getattr(hint, "__name__", str(hint))
