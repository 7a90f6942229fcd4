"""What a request asks of engines, in no API's words: the sequences that its choices are."""

from dataclasses import dataclass

from engine import GenerateRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that has been checked: its sequences in the order of their choices' indices.

    Each prompt has `n` of them, and `num_prompt_tokens` counts it once. A request with a lower
    `priority` goes first. `stops` are strings that end a text, of which
    engines know nothing. `tells_tokens` is whether tokens that leave no text are worth a piece, and
    special tokens whose names are `shown` leave these as their text.
    """

    request_id: str
    sequences: tuple[GenerateRequest, ...]
    num_prompt_tokens: int
    n: int = 1
    priority: int = 0
    stops: tuple[str, ...] = ()
    tells_tokens: bool = False
    shown: frozenset[str] = frozenset()
