"""The loop: grow a tree, score it in one pass, accept what the target agrees with, commit it."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.accept import accept
from engine.checks import check
from engine.choosing import chooser, describe
from engine.drafting.stage import Drafter, NoStage
from engine.economy import Economy
from engine.errors import EngineError, InvalidRequestError
from engine.model import Model
from engine.rehearsal import rehearse
from engine.request import Finished, GenerateRequest, Output
from engine.text import Text


@dataclass(slots=True)
class Decoder:
    """A target and its drafter, which write one text at a time; speculation never changes it.

    A text that is added waits for its turn. Each step reads one chunk of its prompt, or grows a
    tree and scores it.
    """

    target: Model
    drafter: Drafter = field(default_factory=NoStage)
    economy: Economy = field(default_factory=Economy)
    _waiting: deque[Text] = field(default_factory=deque)
    _seated: Text | None = None
    _cancelled: list[Finished] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in a step."""
        return bool(self._seated or self._waiting or self._cancelled)

    def add(self, request: GenerateRequest) -> None:
        """Let a request wait for its turn.

        Raises InvalidRequestError for one that cannot run, and for one whose id another has.
        """
        limits = self.target.limits
        check(request, self.target.max_model_len, limits.vocab_size)
        if any(text.request.request_id == request.request_id for text in self._texts):
            raise InvalidRequestError(f"another request has the id {request.request_id!r}.")
        device = self.target.device
        self._waiting.append(Text.of(request, limits.eos_token_ids, limits.vocab_size, device))

    def cancel(self, request_id: str) -> None:
        """End a request, which the next step tells; one that is not there is no matter."""
        for text in self._texts:
            if text.request.request_id == request_id:
                self._cancelled.append(Finished(request_id, "cancelled", text.stats))
                if text is self._seated:
                    self._seated = None
                else:
                    self._waiting.remove(text)

    def step(self) -> list[Output | Finished]:
        """Go on with the text whose turn it is: what has come of it, nothing while it is read."""
        if self._cancelled:
            told: list[Output | Finished] = [*self._cancelled]
            self._cancelled.clear()
            return told
        if self._seated is None and self._waiting:
            self._seated = self._waiting.popleft()
            self.target.reset(self._seated.tokens)
            self._seated.num_cached = len(self.target.rows.tokens)
        text = self._seated
        if text is None or self.target.read(text.tokens):
            return []
        output = self._write(text)
        if text.reason is None:
            return [output]
        self._seated = None
        stop = text.tokens[-1] if text.reason == "stop" else None
        return [output, Finished(text.request.request_id, text.reason, text.stats, stop)]

    def generate(self, request: GenerateRequest) -> Iterator[Output | Finished]:
        """Continue a prompt: steps of one or more tokens, then how it ended.

        Who stops asking before that ends it. Raises InvalidRequestError, before the first step,
        for a request that cannot run, EngineError while another has not ended.
        """
        if self.is_busy:
            raise EngineError("another request has not ended: end it first, or add this one.")
        self.add(request)
        try:
            while self.is_busy:
                yield from self.step()
        finally:
            self.cancel(request.request_id)
            self._cancelled.clear()

    def measure(self, seconds: float = 1.0) -> None:
        """Time the passes of the target and of every model stage, in place of what was known.

        To be called between requests, at the start and whenever passes run in another way. It
        takes about `seconds`, or as long as a few passes of each network.
        """
        rehearse(self.target, self.drafter, self.economy, seconds)

    @property
    def _texts(self) -> list[Text]:
        return [*([self._seated] if self._seated else []), *self._waiting]

    def _write(self, text: Text) -> Output:
        """One step of a text that has been read: grow, score, accept, commit."""
        request, is_first = text.request, not text.num_written
        # The last token of a reply is always a bonus. The first one is sent before anything is
        # drafted, or a draft reads the prompt.
        max_depth = min(text.num_left - 1, self.target.max_depth(text.tokens))
        drafter = NoStage() if is_first or request.speculation == "off" else self.drafter
        step = self.economy.step(text, max_depth)
        tree = step.choose(drafter.grow(step, [0], drafter.budget))
        num_rows = self.target.rows.num_missing(text.tokens) + len(tree)
        step.clock.lap("growing")
        logits = self.target.score(text.tokens, tree)
        self.target.wait()
        step.clock.lap("scoring")
        accepted = accept(tree, chooser(text, tree, logits))
        step.clock.lap("choosing")
        emitted, path = accepted.tokens(tree), accepted.path
        num_kept = text.take(emitted)
        self.target.commit(tree, path[:num_kept])
        rows, origins = [0, *path][:num_kept], accepted.origins(tree)
        tokens = describe(logits, rows, emitted, origins, request.num_logprobs)
        stats = step.close(tree, accepted, num_rows)
        text.stats.add(stats)
        return Output(request.request_id, tokens, stats, text.num_cached if is_first else 0)
