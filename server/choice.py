"""One choice of a reply: from emitted tokens to pieces of text, ids and log-probabilities.

Tokens of an accepted block are taken one at a time, so that text, ids, log-probabilities and
usage end at the same token, wherever in the block the end falls.
"""

import math
from typing import Literal

from engine import EmittedToken, GenerateRequest
from server.protocol import Choice, Logprobs
from server.text import Detokenizer, StopMatcher, Tokenizer, unmarked

# JSON has no infinity; this is the floor that OpenAI-compatible servers agree on.
LOWEST_LOGPROB = -9999.0


class ChoiceWriter:
    """Writes one choice piece by piece; mutable. `finish_reason` is set when it has ended."""

    def __init__(
        self,
        index: int,
        sequence: GenerateRequest,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        wants_token_ids: bool = False,
    ) -> None:
        self._index = index
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._matcher = StopMatcher(stops, tokenizer.specials)
        self._detokenizer = Detokenizer(tokenizer, sequence.prompt, self._matcher.marks)
        self._stop_ids = frozenset(sequence.stop_token_ids)
        self._wants_token_ids = wants_token_ids
        self._num_tokens = 0
        self._num_characters = 0
        self._text = ""
        self._tokens: list[tuple[EmittedToken, int]] = []
        self._is_told = False
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stop_reason: str | int | None = None

    def push(self, tokens: tuple[EmittedToken, ...]) -> int:
        """Take a step's tokens up to the end of the text; returns how many were kept."""
        for position, token in enumerate(tokens):
            self._push_one(token)
            if self.finish_reason is not None:
                return position + 1
        return len(tokens)

    def end(self, reason: Literal["stop", "length"]) -> None:
        """The engine ended the text where no limit of this request did."""
        if self.finish_reason is None:
            self._finish(reason)

    def take(self) -> Choice | None:
        """The piece written since the last one; None where there is nothing to tell yet."""
        is_over = self.finish_reason is not None
        if self._is_told or not (self._text or self._reported or is_over):
            return None
        self._is_told = is_over
        choice = Choice(
            index=self._index,
            text=self._text,
            logprobs=self._logprobs(),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            seed=self._sequence.sampling.seed,
            token_ids=[token.token_id for token, _ in self._tokens]
            if self._wants_token_ids
            else None,
        )
        self._text = ""
        self._tokens.clear()
        return choice

    @property
    def has_ended_early(self) -> bool:
        """True when a stop string ended the text, of which the engine cannot know."""
        return self._matcher.matched is not None

    @property
    def _reported(self) -> bool:
        wanted = self._wants_token_ids or self._sequence.num_logprobs is not None
        return wanted and bool(self._tokens)

    def _push_one(self, token: EmittedToken) -> None:
        self._num_tokens += 1
        self._tokens.append((token, self._num_characters))
        if token.token_id in self._stop_ids:
            self.stop_reason = token.token_id
            # A stop string may end with it.
            self._write(self._detokenizer.flush() + self._matcher.marks.get(token.token_id, ""))
            self._finish("stop")
            return
        self._write(self._detokenizer.push(token.token_id))
        if self._matcher.matched is not None:
            self.stop_reason, self.finish_reason = self._matcher.matched, "stop"
        elif self._num_tokens >= self._sequence.max_tokens:
            self._finish("length")

    def _finish(self, reason: Literal["stop", "length"]) -> None:
        self._write(self._detokenizer.flush())
        if self._matcher.matched is not None:
            self.stop_reason, reason = self._matcher.matched, "stop"
        self._text += self._matcher.flush()
        self.finish_reason = reason

    def _write(self, piece: str) -> None:
        self._num_characters += len(unmarked(piece))
        self._text += self._matcher.push(piece)

    def _logprobs(self) -> Logprobs | None:
        if self._sequence.num_logprobs is None:
            return None
        return Logprobs(
            tokens=[self._tokenizer.token_text(token.token_id) for token, _ in self._tokens],
            token_logprobs=[_finite(token.logprob) for token, _ in self._tokens],
            top_logprobs=[self._top(token) for token, _ in self._tokens],
            text_offset=[offset for _, offset in self._tokens],
        )

    def _top(self, token: EmittedToken) -> dict[str, float]:
        """The alternatives by text; the chosen token is always among them."""
        ranked = (*token.top_logprobs, (token.token_id, _finite(token.logprob)))
        texts: dict[str, float] = {}
        for token_id, logprob in ranked:
            texts.setdefault(self._tokenizer.token_text(token_id), _finite(logprob))
        return texts


def _finite(logprob: float | None) -> float:
    if logprob is None or math.isnan(logprob):
        return LOWEST_LOGPROB
    return min(0.0, max(LOWEST_LOGPROB, logprob))
