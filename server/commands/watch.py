"""Watching a training: a bar for a person, a line now and then for a file."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column

from engine.training import Progress as Training
from engine.training import Recipe

_RECENT = 50


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """The figures of a training in words."""

    training: Training
    recipe: Recipe
    spent: float

    def __str__(self) -> str:
        recent = self.training.losses[-_RECENT:]
        parts = [f"loss {sum(recent) / max(1, len(recent)):.3f}"]
        if self.training.held_out:
            parts.append(f"held out {self.training.held_out[-1][1]:.3f}")
        if self.training.agreement:
            parts.append(f"agreement {percentages(self.training.agreement)}")
        parts.append(f"{self.training.tokens_per_second:,.0f} tokens/s")
        parts.append(f"{self._time_left()} left")
        return ", ".join(parts)

    def _time_left(self) -> str:
        """What the rest of the budget takes if it is spent as fast as the first part was."""
        seconds = 60 * self.recipe.minutes
        if self.spent:
            seconds = self.training.seconds * max(0.0, 1 - self.spent) / self.spent
        return str(timedelta(seconds=round(seconds)))


def tell(console: Console, line: str) -> None:
    """Print a line as it is; the terminal wraps it."""
    console.print(line, soft_wrap=True, markup=False)


def percentages(shares: tuple[float, ...]) -> str:
    """One share for each step ahead."""
    return " ".join(f"{share:.1%}" for share in shares)


class Watch:
    """Shows what is under way. A file or a pipe gets a line at each measurement instead of bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(12), TaskProgressColumn())
        # Wrapped, not cut: on a narrow terminal the time that is left would be lost.
        figures = TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=False))
        self._bars = Progress(*columns, figures, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._num_measured = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def say(self, what: str, share: float) -> None:
        """Show what is being done that is not training; a whole share ends it."""
        is_new = what not in self._tasks
        self._update(what, share, "")
        if is_new and not self._console.is_terminal:
            tell(self._console, what)

    def reporter(self, name: str, recipe: Recipe) -> Callable[[Training, float], None]:
        """Who hears of one training."""

        def report(training: Training, spent: float) -> None:
            line = str(TrainingLine(training, recipe, spent))
            self._update(name, min(1.0, spent), line)
            if len(training.held_out) != self._num_measured and not self._console.is_terminal:
                tell(self._console, f"{name} {min(1.0, spent):.0%}: {line}")
            self._num_measured = len(training.held_out)

        return report

    def _update(self, name: str, share: float, figures: str) -> None:
        """Show one thing at a time, below the trainings that are over; no share is a pulse."""
        if name not in self._tasks:
            for task in self._bars.tasks:
                self._bars.update(task.id, visible=bool(task.fields["figures"]))
            self._tasks[name] = self._bars.add_task(name, total=None, figures="")
        total = 1.0 if share else None
        self._bars.update(self._tasks[name], total=total, completed=share, figures=figures)
