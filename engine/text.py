"""A text being written: a request, what it has come to so far, and where it ends.

Knows nothing of networks, trees' sizes or drafters; it lives as long as its request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch

from engine.errors import InvalidRequestError
from engine.grammar import Grammars
from engine.request import PROMPT, EmittedToken, FinishReason, GenerateRequest
from engine.sampling import Sampling
from engine.stats import SpeculationStats


@dataclass(eq=False, slots=True)
class Text:
    """A request that is being written: its tokens, its rule of choice, and where it ends.

    The last token is the root of the next tree. A node that holds one of `stop_ids` gets no
    children, since the text would end there. Where it sits, `num_cached` of the prompt's tokens had
    their rows already; `num_waits` chunks of other prompts were read before its own. `reason` tells
    why the text has ended, None while it goes on. `scored` are the prompt's tokens with their
    log-probabilities, as far as they have been read, where these were asked for.
    """

    request: GenerateRequest
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()
    seat: int = 0
    num_cached: int = 0
    num_waits: int = 0
    reason: FinishReason | None = None
    stats: SpeculationStats = field(default_factory=SpeculationStats)
    tokens: list[int] = field(init=False)
    scored: list[EmittedToken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        if self.is_read_anew:
            self.scored.append(EmittedToken(self.tokens[0], PROMPT))

    @classmethod
    def of(
        cls,
        request: GenerateRequest,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        device: torch.device | str,
        grammars: Grammars | None = None,
    ) -> Self:
        """The text of a request that has been checked, its prompt alone.

        Raises InvalidRequestError for a constraint that cannot be kept.
        """
        eos = () if request.ignore_eos else eos_token_ids
        stop_ids = frozenset((*request.stop_token_ids, *eos))
        num_prompt, constraint, grammar = len(request.prompt), request.constraint, None
        if constraint is not None:
            if grammars is None:
                told = "constraints need the model's tokenizer, and this engine has none."
                raise InvalidRequestError(told, "constraint")
            grammar = grammars.matcher(constraint, stop_ids, num_prompt)
        sampling = Sampling(request.sampling, vocab_size, device, num_prompt, stop_ids, grammar)
        return cls(request, sampling, stop_ids)

    @property
    def is_read_anew(self) -> bool:
        """Whether no rows may be kept for it that other texts have left: its prompt is scored."""
        return self.request.num_prompt_logprobs is not None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is chosen."""
        return self.request.sampling.is_greedy

    @property
    def is_free(self) -> bool:
        """Whether stages are to use their limits fully, whatever that costs."""
        return self.request.speculation == "always"

    @property
    def is_drafted_for(self) -> bool:
        """Whether anything is to be proposed now: not before the first token has been sent."""
        return self.request.speculation != "off" and self.num_written > 0

    @property
    def salt(self) -> str | None:
        """What is remembered of the text is of use to texts of the same salt alone."""
        return self.request.cache_salt

    @property
    def root_position(self) -> int:
        """The index of the root in the model's whole input; a node's is this plus its depth."""
        return len(self.tokens) - 1

    @property
    def num_written(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_left(self) -> int:
        """Tokens that may still come."""
        return self.request.max_tokens - self.num_written

    def take(self, emitted: Sequence[int]) -> int:
        """Keep a step's tokens up to the end of the text, if that is among them; how many.

        A constrained text ends where nothing but its end may come, too.
        """
        kept: list[int] = []
        num_left = self.num_left
        for token in emitted[:num_left]:
            kept.append(token)
            if (reason := self._end(kept)) is not None:
                self.reason = reason
                break
        else:
            if len(kept) == num_left:
                self.reason = "length"
        self.tokens.extend(kept)
        return len(kept)

    def _end(self, kept: Sequence[int]) -> FinishReason | None:
        """Why the text ends with the last of some more tokens, if it does."""
        if kept[-1] in self.stop_ids:
            return "stop"
        if (grammar := self.sampling.grammar) is None:
            return None
        [following] = grammar.following(self.tokens, [kept])
        return following.end
