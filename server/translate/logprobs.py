"""Tokens with their log-probabilities, as completions tell them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine import EmittedToken
from server.protocol import Logprobs, PromptLogprob
from server.text import Tokenizer

# JSON has no infinity; this is the floor that OpenAI-compatible servers agree on.
LOWEST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class LogprobWriter:
    """Names tokens by their text, with at most `most` alternatives each."""

    tokenizer: Tokenizer
    most: int

    def lists(self, tokens: Sequence[EmittedToken], offsets: Sequence[int]) -> Logprobs:
        """OpenAI's parallel lists; `offsets` are where the tokens begin in the text."""
        return Logprobs(
            tokens=[self.tokenizer.token_text(token.token_id) for token in tokens],
            token_logprobs=[None if token.logprob is None else _finite(token) for token in tokens],
            top_logprobs=[None if token.logprob is None else self._top(token) for token in tokens],
            text_offset=list(offsets),
        )

    def by_id(self, tokens: Sequence[EmittedToken]) -> list[dict[str, PromptLogprob] | None]:
        """vLLM's map of ids for each token of a prompt; the token itself is always in it."""
        return [None if token.logprob is None else self._ranked(token) for token in tokens]

    def _top(self, token: EmittedToken) -> dict[str, float]:
        """The alternatives by text; the chosen token is always among them."""
        texts: dict[str, float] = {}
        for token_id, logprob in self._alternatives(token):
            texts.setdefault(self.tokenizer.token_text(token_id), logprob)
        return texts

    def _ranked(self, token: EmittedToken) -> dict[str, PromptLogprob]:
        known = {other: rank for rank, (other, _) in enumerate(token.top_logprobs, start=1)}
        return {
            str(other): PromptLogprob(
                logprob=logprob,
                rank=known.get(other),
                decoded_token=self.tokenizer.token_text(other),
            )
            for other, logprob in self._alternatives(token)
        }

    def _alternatives(self, token: EmittedToken) -> list[tuple[int, float]]:
        top = token.top_logprobs[: self.most]
        found = [(other, bounded(logprob)) for other, logprob in top]
        return [*found, (token.token_id, _finite(token))]


def bounded(logprob: float) -> float:
    """A log-probability as JSON can have it."""
    return LOWEST_LOGPROB if math.isnan(logprob) else min(0.0, max(LOWEST_LOGPROB, logprob))


def _finite(token: EmittedToken) -> float:
    return LOWEST_LOGPROB if token.logprob is None else bounded(token.logprob)
