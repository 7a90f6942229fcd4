"""When to try a drafter again that does not pay: texts change, and so do machines."""

from dataclasses import dataclass

_LARGEST_SHARE, _SMALLEST_SHARE = 0.01, 0.00125
_READING_SHARE = 0.015
_PATIENCE = 3


@dataclass(slots=True)
class Trials:
    """A small share of the time goes to trying one stage; of a failure follows a smaller share.

    So trials cost what they may, be the stage's pass cheap or dear. The text that the stage has to
    read for them has a share of its own, or a long prompt would be read for nothing. A trial that
    finds the target's token is followed by another at once.
    """

    share: float = _LARGEST_SHARE
    idle_milliseconds: float = 0.0
    _promise: int = 0
    _is_trying: bool = False

    def start_text(self) -> None:
        """Another text may be one for this stage: earlier failures say little of it."""
        self.share = _LARGEST_SHARE

    def is_due(self, price: float, reading: float) -> bool:
        """Whether to run a pass of this price, after so much reading, that does not promise to pay.

        Both in milliseconds.
        """
        is_earned = self.share * self.idle_milliseconds >= price > 0
        may_read = _READING_SHARE * self.idle_milliseconds >= reading
        self._is_trying = self._promise > 0 or (is_earned and may_read)
        return self._is_trying

    def forgo(self) -> None:
        """What was due did not come about."""
        self._is_trying = False

    def settle(self, milliseconds: float, has_run: bool, is_right: bool, pays: bool) -> None:
        """A step is over: how long it took, whether the stage ran a pass, was right, and paid."""
        self.idle_milliseconds = 0.0 if has_run else self.idle_milliseconds + milliseconds
        if self._is_trying:
            self._promise += 1 if is_right else -1
            self._promise = min(max(self._promise, 0), _PATIENCE)
        if pays:
            self.share = _LARGEST_SHARE
        elif self._is_trying and not is_right:
            self.share = max(_SMALLEST_SHARE, self.share / 2)
        self._is_trying = False
