"""What every way of making passes fast can be asked, and the way that makes none."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

from engine.config import EngineConfig
from engine.passes import EagerRunner
from engine.scorer import TreeScorer
from engine.weights import lay_out

R = TypeVar("R", bound=EagerRunner)
Scorers = Mapping[str, TreeScorer]
"""Networks by their names in `ModelInfo.passes`."""


def run_by(scorer: TreeScorer, kind: type[R]) -> R:
    """What runs a network's passes, which is of this kind from now on."""
    scorer.runner_kind = kind
    runner = scorer.runner
    assert isinstance(runner, kind)
    return runner


class Acceleration(ABC):
    """What is done for the passes of some networks. `obstacle` is why none of them becomes fast."""

    def __init__(self, config: EngineConfig, scorers: Scorers, obstacle: str | None = None) -> None:
        self._config = config
        self._scorers = scorers
        self._obstacle = obstacle

    @property
    @abstractmethod
    def runners(self) -> Mapping[str, EagerRunner]:
        """What runs each network's passes, as soon as `settle` has laid the weights out."""

    @property
    def is_under_way(self) -> bool:
        """Whether there is more to come."""
        return False

    @property
    def forms(self) -> dict[str, str]:
        """How the passes of each network are run now: eager, compiled or captured."""
        return {name: runner.form for name, runner in self.runners.items()}

    @property
    def refusals(self) -> dict[str, str]:
        """Why passes stay eager that were to be fast, by the names of their networks."""
        eager = {name: each.refusal for name, each in self.runners.items() if each.form == "eager"}
        reasons = {name: reason or self._general_refusal for name, reason in eager.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @property
    def _general_refusal(self) -> str | None:
        """Why no passes are fast, whatever their network."""
        return self._obstacle

    @abstractmethod
    def settle(self, announce: Callable[[str], None]) -> bool:
        """Lay out the weights, take what there is, begin what takes long.

        `announce` is told what the engine waits for, if it does. Like `change_over`, it tells
        whether passes are others now, so that no cost is known any more.
        """

    def change_over(self) -> bool:
        """Run passes by what is ready by now; whether that was anything."""
        return False


class AsLoaded(Acceleration):
    """As transformers runs them, with weights laid out for the library's products."""

    @cached_property
    def runners(self) -> dict[str, EagerRunner]:
        """What runs each network's passes."""
        return {name: scorer.runner for name, scorer in self._scorers.items()}

    def settle(self, announce: Callable[[str], None]) -> bool:
        """Lay out the weights."""
        for scorer in self._scorers.values():
            lay_out(scorer.network, has_kernels=False)
        return False
