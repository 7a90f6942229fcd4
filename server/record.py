"""What one HTTP request learned about itself: times, counts and its steps' statistics."""

from dataclasses import dataclass, field

from engine import Output, SpeculationStats, StageStats


@dataclass(slots=True)
class RequestRecord:
    """The fold of a request's events; moments are seconds of one monotonic clock.

    A request of several choices runs them one after the other: its decode time is the sum of
    each choice's time from first to last token, and `num_decode_tokens` leaves each first out.
    """

    num_prompt_tokens: int
    arrived_at: float
    stage_names: tuple[str, ...] = ()
    turn_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float = 0.0
    num_completion_tokens: int = 0
    num_choice_tokens: int = 0
    num_cached_tokens: int = 0
    num_decode_tokens: int = 0
    decode_seconds: float = 0.0
    stats: SpeculationStats = field(default_factory=SpeculationStats)
    finish_reasons: list[str] = field(default_factory=list)
    _is_first_step: bool = True

    def begin_turn(self, now: float) -> None:
        """The wait in the queue is over."""
        self.turn_at = now

    def begin_choice(self) -> None:
        """The next step is the first of another choice."""
        self._is_first_step = True
        self.num_choice_tokens = 0

    def add_step(self, step: Output, num_kept: int, now: float) -> None:
        """Fold one step in, of whose tokens the reply keeps `num_kept`."""
        self.stats.add(step.stats)
        self.num_completion_tokens += num_kept
        self.num_choice_tokens += num_kept
        if self.first_token_at is None:
            self.first_token_at = now
        if self._is_first_step:
            self.num_cached_tokens += step.num_cached_tokens
            self.num_decode_tokens += num_kept - 1
            self._is_first_step = False
        else:
            self.num_decode_tokens += num_kept
            self.decode_seconds += now - self.last_token_at
        self.last_token_at = now

    @property
    def stages(self) -> list[StageStats]:
        """Every stage's part, that of a stage which was never asked too."""
        done = self.stats.stages
        names = dict.fromkeys((*self.stage_names, *done))
        return [done.get(name) or StageStats(name) for name in names]

    @property
    def queue_seconds(self) -> float:
        """From arrival to the request's turn."""
        return (self.turn_at or self.arrived_at) - self.arrived_at

    @property
    def first_token_seconds(self) -> float:
        """TTFT: from arrival to the first token, the queue included."""
        return (self.first_token_at or self.arrived_at) - self.arrived_at

    @property
    def generation_seconds(self) -> float:
        """From the request's turn to its last token."""
        return max(0.0, self.last_token_at - (self.turn_at or self.last_token_at))

    @property
    def seconds_per_token(self) -> float:
        """Mean time per output token after the first of each choice; 0 with no such token."""
        return self.decode_seconds / self.num_decode_tokens if self.num_decode_tokens else 0.0
