"""How many passes to run one after another on a device, where nobody can look between them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from engine.economy.trials import Trials

_RATE = 1 / 16
"""Of the latest step in what is remembered: texts change their nature within some tens of steps."""
_FIRST_YIELD = 0.5
"""What a pass is thought to bring before there is anything to tell by."""


@dataclass(slots=True)
class PassCount:
    """What the passes of one stage brought, by their number, and what they and a token take.

    The yield of a pass is the number of accepted tokens that hang below its rows, in the mean of
    the steps that ran it. As many passes are run as bring most; now and then one more.
    """

    yields: list[float] = field(default_factory=list)
    price: float = 0.0
    token_milliseconds: float = 0.0
    trials: Trials = field(default_factory=Trials)
    _passes: Sequence[Sequence[int]] = ()
    _num_that_pay: int = 0
    _was_asked: bool = False

    def start_text(self) -> None:
        """Another text may be of another sort: passes that brought nothing get another chance."""
        self.yields = [(known + max(known, _FIRST_YIELD)) / 2 for known in self.yields]
        self.trials.start_text()

    def choose(self, most: int) -> int:
        """How many passes to run: 0 to `most`."""
        self._expect(most)
        best, gain, highest = 0, 0.0, 0.0
        for count, brought in enumerate(self.yields[:most], start=1):
            gain += brought * self.token_milliseconds - self.price
            if gain >= highest:
                best, highest = count, gain
        self._num_that_pay, self._was_asked = best, True
        return best + (best < most and self.trials.is_due(self.price, 0.0))

    def put(self, passes: Sequence[Sequence[int]], milliseconds: float) -> None:
        """These passes, one or more, have been run over these nodes and took so long together."""
        self._expect(len(passes))
        both = zip_longest(self._passes, passes, fillvalue=())
        self._passes = [[*earlier, *latest] for earlier, latest in both]
        self.price = _moved(self.price, milliseconds / len(passes))

    def learn(
        self,
        name: str,
        reached: Sequence[tuple[int, int]],
        accepted: Sequence[str],
        milliseconds: float,
    ) -> None:
        """A step of so many milliseconds is over, in which the stage of this name may have drafted.

        Of the nodes reached all but the last have an accepted child, which the stages named in
        `accepted` proposed.
        """
        self.token_milliseconds = _moved(self.token_milliseconds, milliseconds / len(reached))
        origins = zip(reached, accepted, strict=False)
        parents = {node for (node, _), origin in origins if origin == name}
        brought = [len(parents.intersection(nodes)) for nodes in self._passes]
        for place, count in enumerate(brought):
            self.yields[place] += _RATE * (count - self.yields[place])
        if self._was_asked:
            tried = brought[self._num_that_pay :]
            self.trials.settle(milliseconds, bool(tried), sum(tried) > 0, pays=False)
        self._passes, self._was_asked = (), False

    def _expect(self, count: int) -> None:
        """Have a yield for so many passes."""
        self.yields += [_FIRST_YIELD] * (count - len(self.yields))


def _moved(mean: float, latest: float) -> float:
    """A mean that fades, with the latest figure in it; the first one is the mean."""
    return mean + _RATE * (latest - mean) if mean else latest
