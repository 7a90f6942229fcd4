"""What a request asks of engines, in no API's words: the sequences that its choices are."""

from dataclasses import dataclass

from engine import GenerateRequest
from server.piece import PLAIN, Manner


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that has been checked: its sequences in the order of their choices' indices.

    Each prompt has `n` of them, and `num_prompt_tokens` counts it once. A request with a lower
    `priority` goes first. `manner` is how their tokens become text, of which engines know nothing.
    """

    request_id: str
    sequences: tuple[GenerateRequest, ...]
    num_prompt_tokens: int
    n: int = 1
    priority: int = 0
    manner: Manner = PLAIN
