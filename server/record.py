"""What one HTTP request learned about itself: times, counts and its steps' statistics."""

from dataclasses import dataclass, field

from engine import PREDICTION, Output, SpeculationStats, StageStats


@dataclass(slots=True)
class ChoiceRecord:
    """The part of one choice, and the number of the engine that writes it.

    Moments are seconds of one monotonic clock.
    """

    engine: int | None = None
    num_tokens: int = 0
    num_cached_tokens: int = 0
    first_token_at: float | None = None
    last_token_at: float = 0.0
    finish_reason: str | None = None

    @property
    def decode_seconds(self) -> float:
        """From its first token to its last."""
        return self.last_token_at - (self.first_token_at or self.last_token_at)


@dataclass(slots=True)
class RequestRecord:
    """The fold of a request's events, choice by choice; each prompt has `n` of these.

    Each choice has a time from its first to its last token, whatever the others do: the decode time
    is their sum, and `num_decode_tokens` leaves the first of each out. Each may have `max_tokens`.
    `num_predicted_tokens` are those of all choices that the request's own prediction proposed;
    `num_reasoning_tokens` those that whoever reads them as messages has found to be reasoning.
    """

    num_prompt_tokens: int
    arrived_at: float
    stage_names: tuple[str, ...] = ()
    n: int = 1
    max_tokens: int = 0
    turn_at: float | None = None
    num_predicted_tokens: int = 0
    num_reasoning_tokens: int = 0
    choices: list[ChoiceRecord] = field(default_factory=list)
    stats: SpeculationStats = field(default_factory=SpeculationStats)

    def begin_choice(self) -> ChoiceRecord:
        """Another choice, the next by its index."""
        self.choices.append(ChoiceRecord())
        return self.choices[-1]

    def add_step(self, choice: ChoiceRecord, step: Output, num_kept: int, now: float) -> None:
        """Fold one step of a choice in, of whose tokens the reply keeps `num_kept`."""
        self.stats.add(step.stats)
        choice.num_tokens += num_kept
        kept = step.tokens[:num_kept]
        self.num_predicted_tokens += sum(token.origin == PREDICTION for token in kept)
        choice.last_token_at = now
        if choice.first_token_at is None:
            choice.first_token_at = now
            choice.num_cached_tokens = step.num_cached_tokens

    @property
    def num_completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(choice.num_tokens for choice in self.choices)

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that the engine still had, of each prompt's first choice.

        What others find may have been read for that one.
        """
        return sum(choice.num_cached_tokens for choice in self.choices[:: self.n])

    @property
    def stages(self) -> list[StageStats]:
        """Every stage's part, that of a stage which was never asked too."""
        done = self.stats.stages
        names = dict.fromkeys((*self.stage_names, *done))
        return [done.get(name) or StageStats(name) for name in names]

    @property
    def queue_seconds(self) -> float:
        """From arrival to the first turn of the request's choices."""
        return (self.turn_at or self.arrived_at) - self.arrived_at

    @property
    def first_token_seconds(self) -> float:
        """TTFT: from arrival to the first token of all, the queue included."""
        firsts = [one.first_token_at for one in self.choices if one.first_token_at is not None]
        return min(firsts, default=self.arrived_at) - self.arrived_at

    @property
    def last_token_at(self) -> float:
        """When the last token of all came; 0 before there is one."""
        return max((choice.last_token_at for choice in self.choices), default=0.0)

    @property
    def generation_seconds(self) -> float:
        """From the first turn to the last token."""
        return max(0.0, self.last_token_at - (self.turn_at or self.last_token_at))

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all choices by the time from the turn to the last; 0 in no time."""
        seconds = self.generation_seconds
        return self.num_completion_tokens / seconds if seconds else 0.0

    @property
    def num_decode_tokens(self) -> int:
        """Tokens after the first of each choice."""
        return sum(max(0, choice.num_tokens - 1) for choice in self.choices)

    @property
    def seconds_per_token(self) -> float:
        """Mean time per output token after the first of each choice; 0 with no such token."""
        seconds = sum(choice.decode_seconds for choice in self.choices)
        return seconds / self.num_decode_tokens if self.num_decode_tokens else 0.0
