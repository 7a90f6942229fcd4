"""The loop: grow a tree, score it in one pass, accept what the target agrees with, commit it."""

from collections.abc import Iterator, Sequence

from engine.accept import accept
from engine.checks import check
from engine.choosing import chooser, describe, possible
from engine.drafting.stage import Drafter, NoStage, Scored
from engine.economy import Economy
from engine.errors import EngineError, InvalidRequestError
from engine.grammar import Grammars
from engine.model import Model
from engine.rehearsal import rehearse
from engine.request import PROMPT, EmittedToken, Finished, GenerateRequest, Output
from engine.seats import Seats
from engine.stats import StepStats
from engine.text import Text


class Decoder:
    """Texts in their seats: a step grows one tree with a root for every text, and scores it once.

    Speculation never changes a text, and neither does company. What is added waits for a seat.
    """

    def __init__(
        self,
        target: Model,
        drafter: Drafter | None = None,
        economy: Economy | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self.target = target
        self.drafter = drafter or NoStage()
        self.economy = economy or Economy()
        self._grammars = grammars
        self._seats = Seats(target)
        self._cancelled: list[Output | Finished] = []

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in a step."""
        return bool(self._cancelled or any(True for _ in self._seats))

    def add(self, request: GenerateRequest) -> None:
        """Let a request wait for a seat.

        Raises InvalidRequestError for one that cannot run, and for one whose id another has.
        """
        limits = self.target.limits
        check(request, self.target.max_model_len, limits.vocab_size)
        if any(text.request.request_id == request.request_id for text in self._seats):
            raise InvalidRequestError(f"another request has the id {request.request_id!r}.")
        ends, size, device = limits.eos_token_ids, limits.vocab_size, self.target.device
        self._seats.queue(Text.of(request, ends, size, device, self._grammars))

    def cancel(self, request_id: str) -> None:
        """End a request, which the next step tells; one that is not there is no matter."""
        for text in self._seats:
            if text.request.request_id == request_id:
                self._seats.vacate(text)
                self._cancelled.append(Finished(request_id, "cancelled", text.stats))

    def step(self) -> list[Output | Finished]:
        """Read a chunk of one prompt, and write all texts that have been read; what comes of it.

        With the last of its prompt, alone, a text gets its first token.
        """
        told = [*self._cancelled]
        self._seats.fill()
        texts = self._seats.writing
        reading = self._seats.next_to_read()
        if reading is not None:
            if not self._read(reading):
                self._seats.begin(reading)
                told += self._write([reading])
            elif texts:
                self.target.wait()  # or the others' next pass would seem to take so long
        if texts:
            told += self._write(texts)
        self._cancelled.clear()
        return told

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

    def _read(self, text: Text) -> bool:
        """Feed a chunk of a prompt, and score it if that was asked for; whether there was one."""
        num_logprobs = text.request.num_prompt_logprobs
        if num_logprobs is None:
            return self.target.read(text)
        logits = self.target.read_scored(text)
        rows, start = range(len(logits)), len(text.scored)
        following = text.tokens[start : start + len(rows)]
        text.scored += describe(logits, rows, following, [PROMPT] * len(rows), num_logprobs)
        return len(rows) > 0

    def _write(self, texts: Sequence[Text]) -> list[Output | Finished]:
        """One step of texts that have been read: grow, score, accept, commit."""
        max_depths = [self._max_depth(text) for text in texts]
        self.target.strips.rollback()  # of a step that was broken off
        step = self.economy.step(texts, max_depths)
        leaves = step.leaves
        grown = self.drafter.grow(step, leaves, self.drafter.budget) if leaves else ()
        tree = step.choose(possible(texts, step.tree, grown))
        num_rows = sum([self.target.num_missing(text) for text in texts]) + len(tree)
        step.clock.lap("growing")
        logits = self.target.score(texts, tree)
        self.target.wait()
        step.clock.lap("scoring")
        accepted = accept(tree, chooser(texts, tree, logits))
        step.clock.lap("choosing")
        self.drafter.learn(step, Scored(texts, tree, range(len(tree)), logits))
        kept, told = [], []
        for text, root, each in zip(texts, tree.roots, accepted, strict=True):
            emitted = each.tokens(tree)
            rows = [root, *each.path][: text.take(emitted)]
            kept.append(rows)
            num_logprobs = text.request.num_logprobs
            told.append(describe(logits, rows, emitted, each.origins(tree), num_logprobs))
        self.target.commit(texts, tree, kept)
        stats = step.close(tree, accepted, num_rows)
        return [
            event
            for text, tokens, figures in zip(texts, told, stats, strict=True)
            for event in self._tell(text, tokens, figures)
        ]

    def _max_depth(self, text: Text) -> int:
        """The deepest node that a tree below a text may have."""
        if not text.is_drafted_for:
            return 0
        # The last token of a reply is always a bonus.
        return min(max(0, text.num_left - 1), self.target.max_depth(text.tokens))

    def _tell(
        self, text: Text, tokens: tuple[EmittedToken, ...], stats: StepStats
    ) -> list[Output | Finished]:
        """What a step has brought a text, and its end, if that is it."""
        request_id = text.request.request_id
        is_first = not text.stats.num_steps
        first = (text.num_cached, tuple(text.scored)) if is_first else (0, ())
        output = Output(request_id, tokens, stats, *first, text.seat)
        text.scored.clear()
        text.stats.add(stats)
        if text.reason is None:
            return [output]
        self._seats.vacate(text)
        stop = text.tokens[-1] if text.reason == "stop" else None
        named = stop if stop in text.stop_ids else None
        return [output, Finished(request_id, text.reason, text.stats, named)]
