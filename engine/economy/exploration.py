"""When to try again what does not pay: texts change, and so do machines."""

import math
from dataclasses import dataclass

_LARGEST_SHARE, _SMALLEST_SHARE = 0.01, 0.00125
_READING_SHARE = 0.0125
_RECOVERY = 1.1
_PATIENCE = 3


@dataclass(slots=True)
class Exploration:
    """A small share of the time goes to trying one thing; of a failure follows a smaller share.

    So trials cost what they may, be the thing cheap or dear. The text that a stage has to read for
    them has a share of its own, or a long prompt would be read for nothing. A trial is judged by
    what it brought for its price: one that paid is followed by another at once, until they have
    lost what was gained, or a few times their price.
    """

    share: float = _LARGEST_SHARE
    idle_milliseconds: float = 0.0
    promise: float = 0.0

    def start_anew(self) -> None:
        """Another text may be one for this: earlier failures say a little less of it."""
        self.share = min(_LARGEST_SHARE, _RECOVERY * self.share)

    def wait(self, price: float, reading: float = 0.0) -> float:
        """For how long to wait before trying what costs this price, after so much reading.

        All in milliseconds. It is due at 0; what costs nothing needs no trial.
        """
        if self.promise > 0:
            return 0.0
        if price <= 0:
            return math.inf
        earned = max(price / self.share, reading / _READING_SHARE)
        return max(0.0, earned - self.idle_milliseconds)

    def is_due(self, price: float, reading: float = 0.0) -> bool:
        """Whether that time has come."""
        return self.wait(price, reading) <= 0

    def rest(self, milliseconds: float) -> None:
        """A step is over, which took so long, and nobody thought of it."""
        self.idle_milliseconds += milliseconds

    def settle(
        self, milliseconds: float, has_run: bool, is_trial: bool, worth: float, pays: bool
    ) -> None:
        """A step is over, which took so long, in which it was done or not.

        If it was a trial, `worth` is what it brought in its own price; `pays` tells that no trial
        was needed.
        """
        self.idle_milliseconds = 0.0 if has_run else self.idle_milliseconds + milliseconds
        if is_trial:
            self.promise = min(max(self.promise + worth - 1, 0.0), _PATIENCE)
        if pays:
            self.share = _LARGEST_SHARE
        elif is_trial and worth <= 0:
            self.share = max(_SMALLEST_SHARE, self.share / 2)
