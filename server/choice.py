"""One choice of a reply: from the tokens of an engine to pieces of text.

The engine has decided where a text ends, but for stop strings, of which it knows nothing. Tokens of
an accepted block are taken one at a time, so that text, tokens and usage end at the same one,
wherever in the block a stop string falls.
"""

from engine import EmittedToken, StepStats, Update
from server.piece import Manner, Piece, TextEnd
from server.text import Detokenizer, StopMatcher, Tokenizer, unmarked


class ChoiceWriter:
    """Writes one choice piece by piece; mutable. `finish_reason` is set when it has ended."""

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        tokenizer: Tokenizer,
        manner: Manner,
    ) -> None:
        self._index = index
        self._manner = manner
        # Special tokens that are told are text like any other, and found as that.
        hidden = tokenizer.specials if manner.skips_specials else {}
        self._matcher = StopMatcher(manner.stops, hidden, manner.includes_stop)
        shown = tokenizer.named(manner.shown) if manner.skips_specials else tokenizer.specials
        self._detokenizer = Detokenizer(tokenizer, prompt, {**shown, **self._matcher.marks})
        self._num_characters = 0
        self._text = ""
        self._tokens: list[EmittedToken] = []
        self._offsets: list[int] = []
        self._texts: list[str] = []
        self._steps: list[StepStats] = []
        self._prompt: tuple[EmittedToken, ...] = ()
        self._is_told = False
        self.finish_reason: TextEnd | None = None
        self.stop_reason: str | int | None = None

    def push(self, update: Update) -> int:
        """Take what a step has brought, up to a stop string; returns how many tokens were kept."""
        tokens = update.output.tokens if update.output else ()
        self._prompt += update.output.prompt if update.output else ()
        if update.output is not None and update.output.stats.trace is not None:
            self._steps.append(update.output.stats)
        stop_id = update.finished.stop_token_id if update.finished else None
        for number, token in enumerate(tokens, start=1):
            is_stop = stop_id is not None and number == len(tokens)
            self._push_token(token, is_stop)
            if self._matcher.matched is not None:
                self._finish("stop", None)
                return number
        if update.finished is not None:
            self._finish("stop" if update.finished.reason == "stop" else "length", stop_id)
        return len(tokens)

    def take(self) -> Piece | None:
        """The piece written since the last one; None where there is nothing to tell yet."""
        is_over = self.finish_reason is not None
        is_worth_telling = self._text or is_over or (self._manner.tells_tokens and self._tokens)
        if self._is_told or not is_worth_telling:
            return None
        self._is_told = is_over
        piece = Piece(
            index=self._index,
            text=self._text,
            tokens=tuple(self._tokens),
            offsets=tuple(self._offsets),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            prompt=self._prompt,
            texts=tuple(self._texts),
            steps=tuple(self._steps),
        )
        self._text, self._prompt = "", ()
        for told in (self._tokens, self._offsets, self._texts, self._steps):
            told.clear()
        return piece

    def _push_token(self, token: EmittedToken, is_stop: bool) -> None:
        self._tokens.append(token)
        self._offsets.append(self._num_characters)
        self._texts.append("")
        if is_stop and not self._manner.includes_stop:
            # It leaves no text, but a stop string may end with it.
            self._write(self._detokenizer.flush() + self._matcher.marks.get(token.token_id, ""))
        else:
            self._write(self._detokenizer.push(token.token_id))

    def _write(self, piece: str) -> None:
        shown = unmarked(piece)
        self._num_characters += len(shown)
        if self._texts:
            self._texts[-1] += shown
        self._text += self._matcher.push(piece)

    def _finish(self, reason: TextEnd, stop_id: int | None) -> None:
        """Tell what was held back; a stop string that is found there is what ended the text."""
        if self._matcher.matched is None:
            self._write(self._detokenizer.flush())
        stop = self._matcher.matched
        self._text += self._matcher.flush()
        self.finish_reason = reason if stop is None else "stop"
        self.stop_reason = stop_id if stop is None else stop
