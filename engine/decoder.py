"""The loop: grow a tree, score it in one pass, accept what the target agrees with, commit it."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from engine.accept import accept
from engine.checks import check
from engine.drafting.base import Drafter, NoStage
from engine.economy import TARGET_PASS, Economy, Spending, time_passes
from engine.errors import EngineError, InvalidRequestError
from engine.model import Model
from engine.request import (
    TARGET,
    EmittedToken,
    Finished,
    GenerateRequest,
    Output,
    SamplingParams,
)
from engine.sampling import Sampler
from engine.stats import SpeculationStats, StepStats
from engine.text import Text
from engine.tree import TokenTree, bushy_tree

_REHEARSAL_TOKENS = 80
"""More than a captured pass has rows: on a GPU the first prompt need not wait for its kernels."""
_REHEARSED = (SamplingParams(1.0, top_k=50), SamplingParams(0.0))


@dataclass(slots=True)
class Decoder:
    """A target and its drafter, which write one text at a time; speculation never changes it.

    A text that is added waits for its turn. Each step reads one chunk of its prompt, or grows a
    tree and scores it.
    """

    target: Model
    drafter: Drafter = field(default_factory=NoStage)
    economy: Economy = field(default_factory=Economy)
    _waiting: deque[GenerateRequest] = field(default_factory=deque)
    _seat: "_Seat | None" = None
    _cancelled: list[Finished] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in a step."""
        return bool(self._seat or self._waiting or self._cancelled)

    def add(self, request: GenerateRequest) -> None:
        """Let a request wait for its turn.

        Raises InvalidRequestError for one that cannot run, and for one whose id another has.
        """
        check(request, self.target.max_model_len, self.target.limits.vocab_size)
        if request.request_id in self._request_ids:
            raise InvalidRequestError(f"another request has the id {request.request_id!r}.")
        self._waiting.append(request)

    def cancel(self, request_id: str) -> None:
        """End a request, which the next step tells; one that is not there is no matter."""
        if request_id not in self._request_ids:
            return
        stats = SpeculationStats()
        if self._seat and self._seat.request.request_id == request_id:
            stats, self._seat = self._seat.text.stats, None
        self._waiting = deque(each for each in self._waiting if each.request_id != request_id)
        self._cancelled.append(Finished(request_id, "cancelled", stats))

    def step(self) -> list[Output | Finished]:
        """Go on with the text whose turn it is: what has come of it, nothing while it is read."""
        if self._cancelled:
            told: list[Output | Finished] = [*self._cancelled]
            self._cancelled.clear()
            return told
        if self._seat is None:
            if not self._waiting:
                return []
            self._seat = self._sit(self._waiting.popleft())
        if self.target.read(self._seat.text.tokens):
            return []
        return self._write(self._seat)

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

    @property
    def _request_ids(self) -> set[str]:
        seated = [self._seat.request] if self._seat else []
        return {each.request_id for each in (*seated, *self._waiting)}

    def _sit(self, request: GenerateRequest) -> "_Seat":
        """The text of a request, for which everybody keeps what it has in common with the last."""
        limits = self.target.limits
        begun = Text.of(
            request, limits.eos_token_ids, limits.vocab_size, self.target.device, self.economy
        )
        drafter = NoStage() if request.speculation == "off" else self.drafter
        self.target.reset(request.prompt)
        drafter.reset(request.prompt)
        self.economy.start_text(request.sampling.is_greedy, request.speculation == "always")
        return _Seat(request, begun, drafter, len(self.target.tokens))

    def _write(self, seat: "_Seat") -> list[Output | Finished]:
        """One step of a text that has been read, and its end if that is it."""
        request, written = seat.request, seat.text
        # How many draft tokens could be of use: the last token of a reply is always a bonus.
        written.max_depth = min(written.num_left - 1, self.target.max_depth(written.tokens))
        # The first token is sent before anything is drafted, or a draft reads the prompt.
        is_first = written.stats.num_steps == 0
        step = self._step(request, written, NoStage() if is_first else seat.drafter)
        if is_first:
            step = replace(step, num_cached_tokens=seat.num_cached)
        written.stats.add(step.stats)
        seat.drafter.observe([token.token_id for token in step.tokens])
        if written.reason is None:
            return [step]
        self._seat = None
        stop = written.tokens[-1] if written.reason == "stop" else None
        return [step, Finished(request.request_id, written.reason, written.stats, stop)]

    def measure(self, seconds: float = 1.0) -> None:
        """Time the passes of the target and of every model stage, in place of what was known.

        To be called between requests, at the start and whenever passes run in another way. It
        takes about `seconds`, or as long as a few passes of each network.
        """
        for sampling in _REHEARSED:
            self._time_passes(sampling, seconds / len(_REHEARSED))
        self.target.reset([0])
        self.drafter.take_work()

    def _time_passes(self, sampling: SamplingParams, seconds: float) -> None:
        """Time them as they are in texts of this kind."""
        self.economy.start_text(sampling.is_greedy, is_free=True)
        # A tree of 64 rows is 6 levels deep, and needs as many positions.
        tokens = [0] * max(1, min(_REHEARSAL_TOKENS, self.target.max_model_len - 8))
        sampler = Sampler(sampling, self.target.limits.vocab_size, self.target.device)
        rehearsed = Text([*tokens, 0], sampler)
        self.target.reset(tokens)
        self.target.score(tokens, TokenTree(0))
        self.target.commit(TokenTree(0), [])

        def rehearse(num_rows: int) -> None:
            self.target.score(rehearsed.tokens, bushy_tree(0, num_rows))
            self.target.wait()
            self.target.rollback()

        runs = {TARGET_PASS: rehearse, **self.drafter.rehearsals(rehearsed)}
        self.economy.costs.forget()
        for name, run in runs.items():
            self.economy.costs.curve(name).replace(time_passes(run, seconds / len(runs)))

    def _step(self, request: GenerateRequest, text: Text, drafter: Drafter) -> Output:
        """Grow, score, accept, commit."""
        started = time.perf_counter()
        self.economy.start_step(text.num_left)
        candidates = TokenTree(text.tokens[-1])
        proposed = drafter.grow(text, candidates, [0], drafter.budget)
        chosen = self.economy.choose(candidates, proposed)
        tree = candidates.prune(chosen)
        grown = time.perf_counter()
        num_rows = len(text.tokens) - 1 - len(self.target.tokens) + len(tree)
        logits = self.target.score(text.tokens, tree)
        self.target.wait()
        scored = time.perf_counter()
        path, bonus_token = accept(tree, choices(text, tree, logits))
        walked = time.perf_counter()
        emitted = [*(tree.tokens[node] for node in path), bonus_token]
        origins = [*(tree.origins[node] for node in path), TARGET]
        num_kept = text.take(emitted)
        self.target.commit(tree, path[:num_kept])
        rows = [0, *path][:num_kept]
        tokens = describe(logits, rows, emitted, origins, request.num_logprobs)
        stages = tuple(
            work.stats(tree.origins.count(work.name), origins.count(work.name))
            for work in drafter.take_work()
        )
        places = [0, *chosen]
        reached = list(zip([places[node] for node in (0, *path)], emitted, strict=True))
        elapsed = (time.perf_counter() - started) * 1e3
        spending = Spending(
            elapsed, (scored - grown) * 1e3, (walked - scored) * 1e3, num_rows, len(tree)
        )
        self.economy.learn(reached, spending, tree.origins[1:], origins[:-1])
        stats = StepStats(
            num_nodes=len(tree),
            num_accepted_drafts=len(path),
            milliseconds=(time.perf_counter() - started) * 1e3,
            target_milliseconds=(walked - grown) * 1e3,
            stages=stages,
            expected_tokens=self.economy.expected_tokens,
            expected_milliseconds=self.economy.expected_milliseconds,
        )
        return Output(request.request_id, tokens, stats)


@dataclass(frozen=True, slots=True)
class _Seat:
    """A text whose turn it is, who drafts for it, and how much of its prompt had its rows."""

    request: GenerateRequest
    text: Text
    drafter: Drafter
    num_cached: int


def choices(text: Text, tree: TokenTree, logits: Tensor) -> Callable[[int], int]:
    """The target's token after a node, whose logits are a row (nodes, vocabulary).

    A CPU chooses for the nodes that are asked for alone; a GPU for all at once, to be waited for
    once.
    """
    if logits.is_cpu:
        return partial(choose, text, tree, logits)
    positions = [text.root_position + depth + 1 for depth in tree.depths]
    return text.sampler.choose(logits, positions).__getitem__


def choose(text: Text, tree: TokenTree, logits: Tensor, node: int) -> int:
    """The target's token after a node, whose logits are row `node`."""
    position = text.root_position + tree.depths[node] + 1
    return text.sampler.choose(logits[node : node + 1], [position])[0]


def describe(
    logits: Tensor,
    rows: Sequence[int],
    token_ids: Sequence[int],
    origins: Sequence[str],
    num_logprobs: int | None,
) -> tuple[EmittedToken, ...]:
    """A noun for the token of each of these rows of `logits`, with log-probabilities if asked for.

    `logits` are (nodes, vocabulary); tokens and origins beyond the rows are left out.
    """
    chosen = list(zip(token_ids, origins, strict=False))[: len(rows)]
    if num_logprobs is None:
        return tuple([EmittedToken(token, origin) for token, origin in chosen])
    logprobs = logits[rows].float().log_softmax(dim=-1)
    own = logprobs.gather(1, torch.tensor(token_ids[: len(rows)], device=logits.device)[:, None])
    top = logprobs.topk(num_logprobs, dim=-1)
    alternatives = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    return tuple(
        EmittedToken(token, origin, logprob, others)
        for (token, origin), (logprob,), others in zip(
            chosen, own.tolist(), alternatives, strict=True
        )
    )
