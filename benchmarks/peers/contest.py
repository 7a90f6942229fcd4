"""All rows on the same tasks, interleaved: what each wrote, and how long it took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.rows import Task
from benchmarks.peers.worker import Label, Reply, Worker
from engine.benchmark import ratio_interval

Text = tuple[int, ...]
Tell = Callable[[str], None]


@dataclass(slots=True)
class Entry:
    """A row in the contest, with the replies of every round."""

    worker: Worker
    label: Label
    rounds: list[list[Reply]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The peer and the row."""
        return f"{self.worker.peer.name} {self.label.name}"

    @property
    def texts(self) -> list[Text]:
        """What it wrote, the same in every round."""
        return [reply.tokens for reply in self.rounds[0]]


@dataclass(frozen=True, slots=True)
class Result:
    """A row's figures.

    Speeds are tokens a second, with the quartiles over repetitions: `tokens_per_second` after the
    first tokens, `whole` with the prompt's reading. Ratios are those of the former to our plain.
    `num_agreeing` counts the tokens of all replies before their first difference from ours.
    """

    peer: str
    row: str
    precision: str
    tokens_per_second: float
    quartiles: tuple[float, float]
    whole: float
    ratio_to_plain: float
    ratio_low: float
    ratio_high: float
    num_agreeing: int
    num_tokens: int
    num_equal_replies: int
    num_replies: int
    about: str


def contest(
    entries: Sequence[Entry], tasks: Sequence[Task], repetitions: int, tell: Tell
) -> list[Entry]:
    """Run every round; the entries that came through them all. `tell` hears why another did not.

    Raises RuntimeError if the first entry fails: it is what the others are compared with.
    """
    left = list(entries)
    for round_number in range(1 + repetitions):
        shift = round_number % len(left)
        for entry in [*left[shift:], *left[:shift]]:
            try:
                entry.rounds.append(entry.worker.run(entry.label.name, tasks))
            except RuntimeError as error:
                if entry is entries[0]:
                    raise
                tell(f"{entry.name} is left out: {error}")
                left = [each for each in left if each is not entry]
    for entry in left:
        del entry.rounds[0]  # it compiled and warmed up
    return left


def results(entries: Sequence[Entry]) -> list[Result]:
    """The figures of all entries beside those of the first, our plain decoding."""
    return [_result(entry, entries[0]) for entry in entries]


def _result(entry: Entry, plain: Entry) -> Result:
    seconds, plain_seconds = comparable_seconds(entry.rounds), comparable_seconds(plain.rounds)
    num_rated = sum(len(text) - 1 for text in plain.texts)
    num_tokens = sum(map(len, plain.texts))
    speeds = num_rated / seconds.sum(1)
    whole = [num_tokens / sum(r.first_seconds + r.seconds for r in each) for each in entry.rounds]
    low, high = ratio_interval(plain_seconds, seconds)
    agreeing = [num_agreeing(*pair) for pair in zip(entry.texts, plain.texts, strict=True)]
    return Result(
        peer=entry.worker.peer.name,
        row=entry.label.name,
        precision=entry.label.precision,
        tokens_per_second=float(np.median(speeds)),
        quartiles=(float(np.quantile(speeds, 0.25)), float(np.quantile(speeds, 0.75))),
        whole=float(np.median(whole)),
        ratio_to_plain=float(np.median(plain_seconds.sum(1) / seconds.sum(1))),
        ratio_low=low,
        ratio_high=high,
        num_agreeing=sum(agreeing),
        num_tokens=num_tokens,
        num_equal_replies=sum(map(int.__eq__, agreeing, map(len, plain.texts))),
        num_replies=len(plain.texts),
        about=entry.label.about,
    )


def comparable_seconds(rounds: Sequence[Sequence[Reply]]) -> NDArray[np.float64]:
    """Seconds after the first token, repetitions by prompts.

    Whoever began with several tokens at once was timed over fewer than the others: its seconds are
    stretched by the share that is missing, over all prompts together.
    """
    seconds = np.array([[reply.seconds for reply in replies] for replies in rounds])
    replies = rounds[0]
    num_timed = sum(len(reply.tokens) - reply.num_first for reply in replies)
    return seconds * sum(len(reply.tokens) - 1 for reply in replies) / num_timed


def num_agreeing(text: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens come before the first difference."""
    pairs = enumerate(zip(text, other, strict=True))
    return next((index for index, (a, b) in pairs if a != b), len(text))
