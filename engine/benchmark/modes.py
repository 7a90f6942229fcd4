"""The modes of decoding that a list of stages allows to compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from engine.config import EngineConfig, StageConfig, below_drafter
from engine.drafting.build import recognised, stage_names
from engine.request import Speculation

PLAIN = "plain"
_CHAIN_LENGTH = 4
_BUDGET, _PASSES, _GUESSES = 16, 2, 8
"""Usual fixed sizes: nodes of a tree, draft passes of a step, guesses of an n-gram stage."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of decoding: a list of stages, and whether it may fall back to plain steps.

    `size` are its draft nodes, and a part of its name, where one way is compared in several sizes.
    """

    name: str
    stages: tuple[StageConfig, ...]
    speculation: Speculation = "always"
    size: int = 0

    @property
    def way(self) -> str:
        """Its name without the size."""
        return self.name.removesuffix(f"/{self.size}")


def modes_of(
    stages: Sequence[StageConfig],
    alternatives: Sequence[StageConfig] = (),
    limits: Sequence[StageConfig] | None = None,
) -> list[Mode]:
    """What can be compared with these stages: from plain decoding up to all of them, and `auto`.

    `limits` are the same stages in the sizes up to which `auto` may go, if those are others.
    A drafter is a model or a head that stands first: that of `stages`, or an alternative to it.
    Each makes a chain, a tree alone, and a tree over the stages below.
    """
    below = below_drafter(stages)
    first = [*stages[:1], *(recognised((stage,))[0] for stage in alternatives)]
    drafters = [stage for stage in dict.fromkeys(first) if stage.checkpoint is not None]
    names = stage_names(drafters)
    modes = [Mode(PLAIN, (), "off")]
    for drafter, name in zip(drafters, names, strict=True):
        # The configured drafter is the one that needs no name.
        suffix = "" if drafter in stages[:1] else f"-{name}"
        modes += [
            Mode(f"chain{suffix}", (drafter.chain(_CHAIN_LENGTH),)),
            Mode(f"tree{suffix}", (drafter,)),
        ]
    free = tuple(stage for stage in stages if stage.checkpoint is None)
    if len(free) > 1:
        modes += [Mode(stage.name, (stage,)) for stage in free]
    if free:
        modes.append(Mode("+".join(stage.name for stage in free), free))
    if below:
        pairs = zip(drafters, names, strict=True)
        modes += [Mode(f"staged-{name}", (drafter, *below)) for drafter, name in pairs]
    if stages:
        modes.append(Mode("auto", tuple(stages if limits is None else limits), "auto"))
    return modes


def modes_by_size(
    config: EngineConfig, budgets: Sequence[int], passes: int | None
) -> tuple[list[Mode], str | None]:
    """What can be compared in each of these sizes, and the name of what has the stages of `config`.

    In the usual one without a budget, which `resized` tells. Of several the largest bears that
    name; what has no size stands once. Raises ConfigError for a size that is too large.
    """
    by_size: list[list[Mode]] = []
    configured = None
    budgets = sorted(set(budgets))
    for budget in budgets or (None,):
        fixed = resized(config, budget, passes)
        modes = modes_of(fixed.stages, fixed.alternatives, limits=config.stages)
        configured = configured_mode(modes, fixed.stages)
        by_size.append([_alone(mode, budget) for mode in modes])
    if len(by_size) == 1:
        return by_size[0], configured
    named = [mode for each in zip(*by_size, strict=True) for mode in _named(each, budgets)]
    return named, configured and f"{configured}/{budgets[-1]}"


def _alone(mode: Mode, budget: int | None) -> Mode:
    """Stages without a network may be below one in a configuration: alone they are as large."""
    has_network = any(stage.checkpoint is not None for stage in mode.stages)
    if budget is None or has_network or mode.speculation != "always":
        return mode
    return replace(mode, stages=tuple([stage.resized(budget, 0) for stage in mode.stages]))


def _named(modes: Sequence[Mode], budgets: Sequence[int]) -> Iterator[Mode]:
    """One way in several sizes, or once, if it has none."""
    if len({mode.stages for mode in modes}) == 1:
        yield modes[0]
        return
    for mode, size in zip(modes, budgets, strict=True):
        yield replace(mode, name=f"{mode.name}/{size}", size=size)


def configured_mode(modes: Sequence[Mode], stages: Sequence[StageConfig]) -> str | None:
    """The mode that drafts with exactly these stages at every step; None if they are none."""
    matches = (m.name for m in modes if m.stages == tuple(stages) and m.speculation == "always")
    return next(matches, None)


def resized(config: EngineConfig, budget: int | None, passes: int | None) -> EngineConfig:
    """The same in fixed sizes, for modes that use them fully; raises ConfigError if too large.

    `budget` is the most draft nodes in a tree, `passes` the most draft passes in a step, of every
    model and head, or of the stages without a network where no other has one. Where they are not
    given, the configuration's limits are cut down to sizes that are usual: a limit is for `auto`,
    which stays below it.
    """
    has_network = any(stage.checkpoint is not None for stage in config.stages)

    def resize(stage: StageConfig) -> StageConfig:
        if stage.checkpoint is None:
            usual = min(stage.budget, _GUESSES)
            return stage.resized(usual if has_network else budget or usual, 0)
        return stage.resized(
            budget or min(stage.budget, _BUDGET), passes or min(stage.passes, _PASSES)
        )

    mapping = {field.name: getattr(config, field.name) for field in fields(config)}
    stages, alternatives = map(resize, config.stages), map(resize, config.alternatives)
    return EngineConfig.from_mapping(
        {**mapping, "stages": tuple(stages), "alternatives": tuple(alternatives)}
    )
