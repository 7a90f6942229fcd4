"""What is known of one stage, n-grams or network: what asking it takes, brings and saves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.economy.choice import NOTHING
from engine.economy.exploration import Exploration
from engine.economy.record import moved, moved_from_first

_MOST_CREDIT, _LEAST_CREDIT = 1 / 2, 1 / 16
_FIRST_YIELD = 0.5
"""What a pass on a device is thought to bring before there is anything to tell by."""


@dataclass(slots=True)
class Account:
    """What the steps that asked the stage saved against those that did not, milliseconds a step.

    To ask takes time, be it to make guesses or to weigh whether a pass pays. As long as asking
    loses, it is for trials alone. A text begins with the credit of half a question, which is lost
    after six in vain, and the first with that of half a plain step. After each text that ends with
    a loss it is half as much, down to what one question in vain takes.

    `yields` tells of passes that follow one another on a device what each brought, by its number:
    the accepted tokens that hang below its rows, in the mean of the steps that ran it.
    """

    saved: float = 0.0
    price: float = 0.0
    credit: float = _MOST_CREDIT
    asking: Exploration = field(default_factory=Exploration)
    drafting: Exploration = field(default_factory=Exploration)
    going_on: Exploration = field(default_factory=Exploration)
    yields: list[float] = field(default_factory=list)
    pass_milliseconds: float = 0.0
    token_milliseconds: float = 0.0

    def start_text(self, plain: float) -> None:
        """Another text, whose plain step takes so long: what was learnt now weighs less."""
        self.credit = _MOST_CREDIT if self.saved >= 0 else max(_LEAST_CREDIT, self.credit / 2)
        self.saved = max(self.saved, (self.price or plain) * self.credit)
        self.drafting.start_anew()
        self.going_on.start_anew()
        self.yields = [(known + max(known, _FIRST_YIELD)) / 2 for known in self.yields]

    @property
    def wait(self) -> float:
        """Milliseconds before it is to be asked: none as long as that does not lose."""
        return 0.0 if self.saved >= 0 else self.asking.wait(max(self.price, NOTHING))

    def settle_asking(self, price: float, saved: float) -> None:
        """It was asked, at this price, and that saved so many milliseconds beyond it."""
        self.saved = moved(self.saved, saved)
        self.price = moved_from_first(self.price, price)

    def rest(self, milliseconds: float) -> None:
        """A step is over, which took so long, and the stage had no turn in it."""
        self.drafting.rest(milliseconds)
        self.asking.rest(milliseconds)

    def num_that_pay(self, most: int) -> int:
        """As many passes on a device, 0 to `most`, as bring most for the time they take."""
        self._expect(most)
        best, gain, highest = 0, 0.0, 0.0
        for count, brought in enumerate(self.yields[:most], start=1):
            gain += brought * self.token_milliseconds - self.pass_milliseconds
            if gain >= highest:
                best, highest = count, gain
        return best

    def settle_passes(self, brought: Sequence[int]) -> None:
        """So many accepted tokens hang below the rows of each pass on the device."""
        self._expect(len(brought))
        for place, count in enumerate(brought):
            self.yields[place] = moved(self.yields[place], count)

    def _expect(self, count: int) -> None:
        """Have a yield for so many passes."""
        self.yields += [_FIRST_YIELD] * (count - len(self.yields))
