"""From a list of stage configurations to one drafter: each stage wraps the one below it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from engine.checkpoint import PADDING, check_same_tokens
from engine.config import (
    Dtype,
    EngineConfig,
    HeadStageConfig,
    ModelFreeStageConfig,
    ModelStageConfig,
    NgramStageConfig,
    RecycleStageConfig,
    StageConfig,
    most_nodes,
)
from engine.drafting.head import HeadModel
from engine.drafting.head_checkpoint import load_head, names_head
from engine.drafting.katz import KatzTable
from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import (
    GrammarSource,
    LookupSource,
    PredictionSource,
    RecycleSource,
    Source,
    TableSource,
)
from engine.drafting.stage import Drafter
from engine.errors import ConfigError, ModelLoadError
from engine.geometry import MAX_STATE_ROWS, MOST_FORCED
from engine.loading import Checkpoint
from engine.model import Model
from engine.names import resolve
from engine.scorer import TreeScorer


class StageBuilder:
    """Builds drafters for one target; what they load is loaded once, however often it is used."""

    def __init__(self, config: EngineConfig, target: Model) -> None:
        self._config = config
        self._target = target
        self._models: dict[tuple[str, Dtype], Model] = {}
        self._heads: dict[tuple[str, Dtype], HeadModel] = {}
        self._tables: dict[str, KatzTable] = {}

    def build(
        self,
        stages: Sequence[StageConfig],
        on_stage: Callable[[StageConfig], None] = lambda _: None,
    ) -> Drafter:
        """Fold the stages from the lowest up; `on_stage` hears of each before it is loaded.

        Below all of them is what needs no drafting: the tokens that a text's grammar leaves alone.
        """
        networks = [stage.checkpoint for stage in stages if stage.checkpoint is not None]
        if len(set(networks)) < len(networks):
            raise ModelLoadError(
                f"the stages {', '.join(networks)} name one model twice: it cannot draft for "
                "itself. Name another model, or leave one stage out."
            )
        drafter: Drafter = ModelFreeDrafter([GrammarSource()], MOST_FORCED, children=1)
        names = stage_names(stages)
        for stage, name in zip(reversed(stages), reversed(names), strict=True):
            on_stage(stage)
            drafter = _BUILDERS[type(stage)](self, stage, name, drafter)
        held = dict(zip(names, most_nodes(stages), strict=True))
        _check_room("the target", self._target, drafter.budget)
        for name, scorer in drafter.scorers().items():
            _check_room(f"the stage {name}", scorer, held[name])
        return drafter

    def model(self, name: str, dtype: Dtype | None = None) -> Model:
        """A draft model that fits the target. Raises ModelLoadError if it does not."""
        key = (name, dtype or self._config.dtype)
        if key not in self._models:
            vocab_size = self._target.limits.vocab_size
            checkpoint = Checkpoint.read(name)
            _check_vocabulary(name, checkpoint.limits.vocab_size, vocab_size)
            self._models[key] = checkpoint.load(
                dtype=key[1],
                device=self._config.device,
                max_model_len=self._target.max_model_len,
                chunk=self._config.prefill_chunk,
                num_engines=self._config.num_engines,
                num_seats=len(self._target.strips.seats),
                vocab_size=vocab_size,
            )
            check_same_tokens(name, self._config.model)
        return self._models[key]

    def head(self, name: str, dtype: Dtype | None = None) -> HeadModel:
        """A head that fits the target. Raises ModelLoadError if it does not."""
        key = (name, dtype or self._config.dtype)
        if key not in self._heads:
            self._heads[key] = load_head(name, self._target, self._config.prefill_chunk, key[1])
            check_same_tokens(name, self._config.model)
        return self._heads[key]

    def table(self, name: str) -> KatzTable:
        """An n-gram table for the target: of a smaller vocabulary, or one padded a little more."""
        if name not in self._tables:
            vocab_size = self._target.limits.vocab_size
            table = KatzTable.load(resolve(name), vocab_size)
            if table.vocab_size > (1 + PADDING) * vocab_size:
                raise ModelLoadError(
                    f"the table {name!r} has {table.vocab_size} tokens and the target "
                    f"{vocab_size}: it belongs to another tokenizer."
                )
            self._tables[name] = table
        return self._tables[name]

    def model_drafter(self, stage: ModelStageConfig, name: str, below: Drafter) -> Drafter:
        """A draft-model stage over `below`."""
        vocab_size = self._target.limits.vocab_size
        return ModelDrafter(stage, self.model(stage.model, stage.dtype), below, name, vocab_size)

    def head_drafter(self, stage: HeadStageConfig, name: str, below: Drafter) -> Drafter:
        """A head over `below`."""
        head = self.head(stage.model, stage.dtype)
        return ModelDrafter(stage, head, below, name, self._target.limits.vocab_size)

    def ngram_drafter(self, stage: NgramStageConfig, name: str, below: Drafter) -> Drafter:
        """The look-ups, then whatever stands below, then the table, which knows no text."""
        sources = [*_sources(stage, below)]
        if stage.lookup:
            if any(isinstance(source, LookupSource) for source in sources):
                raise ConfigError("two n-gram stages look up the same: give one lookup: false.")
            most_tokens = len(self._target.strips.seats) * self._target.max_model_len
            # What follows two tokens a table knows better than a text.
            min_match = 2 if stage.table is None else 3
            sources = [LookupSource(name, most_tokens, min_match), *sources]
        if stage.table is not None:
            sources.append(TableSource(name, self.table(stage.table), stage.children))
        return _model_free(stage, sources)

    def recycle_drafter(self, stage: RecycleStageConfig, name: str, below: Drafter) -> Drafter:
        """What was scored before, then whatever stands below."""
        own = RecycleSource(name, stage.children)
        return _model_free(stage, [own, *_sources(stage, below)])


_BUILDERS: Mapping[type[StageConfig], Callable[[StageBuilder, Any, str, Drafter], Drafter]] = {
    HeadStageConfig: StageBuilder.head_drafter,
    ModelStageConfig: StageBuilder.model_drafter,
    NgramStageConfig: StageBuilder.ngram_drafter,
    RecycleStageConfig: StageBuilder.recycle_drafter,
}


def _model_free(stage: ModelFreeStageConfig, sources: Sequence[Source]) -> Drafter:
    """Stages without a network that stand next to each other are one, in the first one's sizes.

    What a grammar leaves alone comes before all; where anything is looked up, what a request
    predicts comes next.
    """
    first = (GrammarSource, PredictionSource)
    sources = [source for source in sources if not isinstance(source, first)]
    if any(isinstance(source, LookupSource) for source in sources):
        sources = [PredictionSource(), *sources]
    return ModelFreeDrafter([GrammarSource(), *sources], stage.budget, stage.children)


def _sources(stage: StageConfig, below: Drafter) -> Sequence[Source]:
    """Those of the stages below. Raises ModelLoadError where they have a network."""
    if isinstance(below, ModelFreeDrafter):
        return below.sources
    if below.budget:
        raise ModelLoadError(
            f"the stage {stage.name} asks no stage with a network below it: name it after those."
        )
    return ()


def recognised(stages: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """The stages, with the kind `head` for a first `model` whose checkpoint turns out to be one."""
    first = stages[0] if stages else None
    if first is None or first.checkpoint is None or first.reads_target:
        return tuple(stages)
    if not names_head(first.checkpoint):
        return tuple(stages)
    sizes = {field.name: getattr(first, field.name) for field in fields(first)}
    return (HeadStageConfig(**sizes), *stages[1:])


def stage_names(stages: Sequence[StageConfig]) -> tuple[str, ...]:
    """The name of each stage, by kind; stages of one kind are numbered from the second on."""
    names: list[str] = []
    for stage in stages:
        count = sum(stage.name == earlier.name for earlier in stages[: len(names)])
        names.append(f"{stage.name}{count + 1}" if count else stage.name)
    return tuple(names)


def layers_read(drafter: Drafter) -> tuple[int, ...]:
    """The target's layers whose hidden states these stages read."""
    return tuple(layer for each in drafter.scorers().values() for layer in each.layers_read)


def _check_room(who: str, scorer: TreeScorer, num_nodes: int) -> None:
    """Refuse trees that outgrow the rows that are kept beside states. Raises ConfigError."""
    if scorer.function.states is not None and num_nodes >= MAX_STATE_ROWS:
        raise ConfigError(
            f"{who} may have to hold {num_nodes} nodes in a step, and a network whose layers keep "
            f"a state holds fewer than {MAX_STATE_ROWS}: lower the budget, passes or width of its "
            "stages.",
            "stages",
        )


def _check_vocabulary(name: str, drafts: int, targets: int) -> None:
    """Refuse a draft with another tokenizer; one may differ in padding alone."""
    if abs(drafts - targets) > PADDING * targets:
        raise ModelLoadError(
            f"the draft {name!r} has {drafts} tokens and the target {targets}: a draft must share "
            "its target's tokenizer. Name a draft of the same family, or none."
        )
