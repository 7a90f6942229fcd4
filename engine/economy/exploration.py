"""When to try again what does not pay: texts change, and so do machines."""

from dataclasses import dataclass

_LARGEST_SHARE, _SMALLEST_SHARE = 0.01, 0.00125
_READING_SHARE = 0.0125
_RECOVERY = 1.1
_PATIENCE = 3


@dataclass(slots=True)
class Exploration:
    """A small share of the time goes to trying one thing; of a failure follows a smaller share.

    So trials cost what they may, be the thing cheap or dear. The text that a stage has to read for
    them has a share of its own, or a long prompt would be read for nothing. A trial that finds the
    target's token is followed by another at once.
    """

    share: float = _LARGEST_SHARE
    idle_milliseconds: float = 0.0
    promise: int = 0

    def start_anew(self) -> None:
        """Another text may be one for this: earlier failures say a little less of it."""
        self.share = min(_LARGEST_SHARE, _RECOVERY * self.share)

    def is_due(self, price: float, reading: float = 0.0) -> bool:
        """Whether to try what costs this price, after so much reading, and does not promise to pay.

        Both in milliseconds.
        """
        is_earned = self.share * self.idle_milliseconds >= price > 0
        may_read = _READING_SHARE * self.idle_milliseconds >= reading
        return self.promise > 0 or (is_earned and may_read)

    def rest(self, milliseconds: float) -> None:
        """A step is over, which took so long, and nobody thought of it."""
        self.idle_milliseconds += milliseconds

    def settle(
        self, milliseconds: float, has_run: bool, is_trial: bool, is_right: bool, pays: bool
    ) -> None:
        """A step is over, which took so long, in which it was done or not.

        If it was a trial, `is_right` tells its success; `pays` that no trial was needed.
        """
        self.idle_milliseconds = 0.0 if has_run else self.idle_milliseconds + milliseconds
        if is_trial:
            self.promise += 1 if is_right else -1
            self.promise = min(max(self.promise, 0), _PATIENCE)
        if pays:
            self.share = _LARGEST_SHARE
        elif is_trial and not is_right:
            self.share = max(_SMALLEST_SHARE, self.share / 2)
