"""Drafters of one target side by side: accepted drafts per millisecond of drafting decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from engine.config import EngineConfig
from engine.drafting.build import StageBuilder
from engine.drafting.head_checkpoint import names_head
from engine.model import Model
from engine.rows import Tokens
from engine.scorer import TreeScorer
from engine.training.head import TrainingTimeTest
from engine.training.measure import expected_accepted, model_agreement, pass_milliseconds
from engine.training.teacher import read_whole_texts, scoring, training_dtype
from engine.tree import TokenTree

CHAIN = 4
"""Drafts of the chain that figures are about."""

_CONTEXT = 128
_TIMED_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class DrafterFigures:
    """How often a drafter agrees with its target, so many tokens ahead, and the time of a pass."""

    name: str
    agreement: tuple[float, ...]
    milliseconds: float

    @property
    def num_accepted(self) -> float:
        """Drafts of a chain that are accepted on average."""
        return expected_accepted(self.agreement, CHAIN)

    @property
    def accepted_per_millisecond(self) -> float:
        """The same for each millisecond that the chain took to draft."""
        return self.num_accepted / (CHAIN * self.milliseconds)


def compare_drafters(
    names: Sequence[str],
    target: PreTrainedModel,
    texts: Sequence[Tensor],
    num_steps: int,
) -> list[DrafterFigures]:
    """Figures of draft models and heads on held-out texts [1, N], best first.

    Raises ModelLoadError for a drafter that cannot be loaded or does not fit the target. Passes are
    timed in rounds over all drafters, so that what else the machine does falls on each alike.
    """
    context = texts[0][0, :_CONTEXT].tolist()
    times: dict[str, list[float]] = {name: [] for name in names}
    with scoring(target) as model:
        builder = _builder(model)
        for _ in range(_TIMED_ROUNDS):
            for name in names:
                scorer = _scorer(builder, name, model, context)
                times[name].append(pass_milliseconds(scorer, context))
    found = [
        DrafterFigures(name, _agreement(builder, name, target, texts, num_steps), min(times[name]))
        for name in names
    ]
    return sorted(found, key=lambda figures: -figures.accepted_per_millisecond)


def check_drafters(names: Sequence[str], target: PreTrainedModel) -> None:
    """Load each, so that what is wrong with one is said before a training and not after it.

    Raises ModelLoadError for a drafter that cannot be loaded or does not fit the target.
    """
    for name in names:
        with scoring(target) as model:
            builder = _builder(model)
            builder.head(name) if names_head(name) else builder.model(name)


def _builder(target: Model) -> StageBuilder:
    config = EngineConfig.from_mapping({"model": "", "dtype": training_dtype()})
    return StageBuilder(config, target)


def _scorer(builder: StageBuilder, name: str, target: Model, context: Sequence[int]) -> TreeScorer:
    """A drafter as it drafts; below a head the target has read the text and kept its features."""
    if not names_head(name):
        return builder.model(name)
    head = builder.head(name)
    target.keep_features(head.layers_read)
    target.score([Tokens([*context])], TokenTree(context[-1]))
    target.strips.rollback()
    return head


def _agreement(
    builder: StageBuilder,
    name: str,
    target: PreTrainedModel,
    texts: Sequence[Tensor],
    num_steps: int,
) -> tuple[float, ...]:
    if names_head(name):
        head = builder.head(name).network
        return TrainingTimeTest(head, target, num_steps).held_out(texts).agreement
    network = builder.model(name).network
    read_whole_texts(network)
    return (model_agreement(network, target, texts),)
