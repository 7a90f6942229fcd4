"""The n-grams' account: what asking them takes, and what their guesses save."""

from collections.abc import Sequence

from engine.economy.habit import Habit


class Guesses:
    """The n-grams: whether to ask them, and what became of it."""

    def __init__(self) -> None:
        self.may_ask = True
        self.milliseconds = 0.0
        self._habit = Habit()
        self._stage = ""

    def start_text(self, plain: float) -> None:
        """Another text, whose plain step takes so long: they are given the time to show."""
        self._habit.start_text(plain)

    def start_step(self, is_free: bool) -> None:
        """Another step, in which they have not been asked yet."""
        self.may_ask = is_free or self._habit.is_due()
        self.milliseconds = 0.0

    def ask(self, stage: str, milliseconds: float) -> None:
        """They have been asked, a stage of this name, which took so long."""
        self._stage = stage
        self.milliseconds += milliseconds

    def settle(
        self,
        step: float,
        plain: float,
        verifying: float,
        load: float,
        proposed: Sequence[str],
        accepted: Sequence[str],
    ) -> None:
        """A step is over, which took so long: what their nodes brought, less what they took.

        `verifying` is what all its nodes cost the target beyond a `plain` step, of which theirs
        have their share; `proposed` and `accepted` name the stages of the nodes. Both prices are
        those of an idle machine, which is `load` times faster.
        """
        if not self.milliseconds:
            return self._habit.forgo(step)
        share = proposed.count(self._stage) / max(1, len(proposed))
        hits, asking = accepted.count(self._stage), self.milliseconds / load
        self._habit.settle(step, asking, hits * plain - asking - verifying * share, hits > 0)
