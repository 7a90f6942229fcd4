"""Does drafting pay? A choice between two measured rates, made again at every step.

Under `"speculation": "auto"` a step either drafts as configured or is plain. Both kinds are timed
as they run; the kind with more tokens per second goes on, and the other is tried again now and
then, since texts and machines change. So a request is never slower than plain decoding by more
than those trials.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """Tokens per millisecond of one kind of step, over the recent ones."""

    memory: float = 0.9
    num_steps: int = 0
    _tokens: float = 0.0
    _milliseconds: float = 0.0

    def observe(self, num_tokens: int, milliseconds: float) -> None:
        """Count one more step; older ones fade by `memory`."""
        self.num_steps += 1
        self._tokens = self.memory * self._tokens + num_tokens
        self._milliseconds = self.memory * self._milliseconds + milliseconds

    @property
    def value(self) -> float:
        """The rate; 0 before the first step."""
        return self._tokens / self._milliseconds if self._milliseconds else 0.0


class Economy:
    """Whether the next step should draft; it outlives requests, as the machine does.

    Every `trial_period` steps the kind that is not in use is tried for `trial_steps` steps. The
    first step after a change is not counted, nor is the first that drafts for a text: a draft model
    then reads what it has missed, which is the price of changing over and not that of drafting.
    """

    def __init__(self, trial_period: int = 128, trial_steps: int = 4) -> None:
        self._trial_period = trial_period
        self._trial_steps = trial_steps
        self._rates = {True: Rate(), False: Rate()}
        self._is_drafting: bool | None = None
        self._has_changed = False
        self._has_read_text = False
        self._num_trial_steps = 0
        self._until_trial = trial_period

    def start_text(self) -> None:
        """Another text begins: the first step that drafts for it reads its prompt as well."""
        self._has_read_text = False

    def pays(self) -> bool:
        """Whether the next step should draft."""
        choice = self._choose() if not self._num_trial_steps else bool(self._is_drafting)
        self._has_changed = choice != self._is_drafting
        self._is_drafting = choice
        return choice

    def observe(self, num_tokens: int, milliseconds: float) -> None:
        """Count the step that `pays` decided on."""
        self._until_trial -= 1
        self._num_trial_steps = max(0, self._num_trial_steps - 1)
        is_drafting = bool(self._is_drafting)
        is_catching_up = is_drafting and not self._has_read_text
        self._has_read_text |= is_drafting
        if not self._has_changed and not is_catching_up:
            self._rates[is_drafting].observe(num_tokens, milliseconds)

    def _choose(self) -> bool:
        for is_drafting, rate in self._rates.items():
            if not rate.num_steps:
                return self._try(is_drafting)
        drafting, plain = self._rates[True].value, self._rates[False].value
        if self._until_trial <= 0:
            return self._try(drafting < plain)
        return drafting >= plain

    def _try(self, is_drafting: bool) -> bool:
        self._until_trial = self._trial_period
        self._num_trial_steps = self._trial_steps + 1
        return is_drafting
