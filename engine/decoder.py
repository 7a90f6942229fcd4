"""The loop: grow a tree, score it in one pass, accept what the target agrees with, commit it."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from engine.accept import accept
from engine.drafting.base import Context, Drafter, NoStage
from engine.economy import TARGET_PASS, Economy, Spending, time_passes
from engine.errors import EngineError, InvalidRequestError
from engine.model import Model
from engine.request import (
    TARGET,
    EmittedToken,
    Finished,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    Step,
)
from engine.sampling import Sampler
from engine.scorer import never
from engine.stats import SpeculationStats, StepStats
from engine.tree import TokenTree, bushy_tree

_REHEARSAL_TOKENS = 80
"""More than a captured pass has rows: on a GPU the first prompt need not wait for its kernels."""
_REHEARSED = (SamplingParams(1.0, top_k=50), SamplingParams(0.0))


@dataclass(slots=True)
class Decoder:
    """A target and its drafter. One request runs at a time; speculation never changes its text."""

    target: Model
    drafter: Drafter = field(default_factory=NoStage)
    economy: Economy = field(default_factory=Economy)
    _num_requests: int = 0

    def generate(
        self, request: GenerateRequest, is_cancelled: Callable[[], bool] = never
    ) -> Iterator[Step | Finished]:
        """Continue the prompt: steps of one or more tokens, then how it ended.

        `is_cancelled` is asked between passes over a long prompt and between steps. Raises
        InvalidRequestError, before the first step, for a request that cannot run.
        """
        context = self._start(request)
        self._num_requests += 1
        turn = self._num_requests
        context.is_cancelled = is_cancelled
        drafter = NoStage() if request.speculation == "off" else self.drafter
        drafter.reset(request.prompt)
        self.economy.start_text(request.sampling.is_greedy, request.speculation == "always")
        num_cached = len(self.target.tokens)
        self.target.catch_up(context.tokens, is_cancelled)
        total = SpeculationStats()
        reason: FinishReason | None = None
        while reason is None and not is_cancelled():
            context.max_depth = self._max_depth(request, context)
            # The first token is sent before anything is drafted, or a draft reads the prompt.
            is_first = total.num_steps == 0
            step, reason = self._step(request, context, NoStage() if is_first else drafter)
            if is_first:
                step = replace(step, num_cached_tokens=num_cached)
            total.add(step.stats)
            drafter.observe([token.token_id for token in step.tokens])
            yield step
            if turn != self._num_requests:
                raise EngineError("another request was started before this one had ended")
        stop = context.tokens[-1] if reason == "stop" else None
        yield Finished(request.request_id, reason or "cancelled", total, stop)

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
        text = [0] * max(1, min(_REHEARSAL_TOKENS, self.target.max_model_len - 8))
        sampler = Sampler(sampling, self.target.limits.vocab_size, self.target.device)
        context = Context([*text, 0], sampler)
        self.target.reset(text)
        self.target.score(text, TokenTree(0))
        self.target.commit(TokenTree(0), [])

        def rehearse(num_rows: int) -> None:
            self.target.score(context.tokens, bushy_tree(0, num_rows))
            self.target.wait()
            self.target.rollback()

        runs = {TARGET_PASS: rehearse, **self.drafter.rehearsals(context)}
        self.economy.costs.forget()
        for name, run in runs.items():
            self.economy.costs.curve(name).replace(time_passes(run, seconds / len(runs)))

    def _step(
        self, request: GenerateRequest, context: Context, drafter: Drafter
    ) -> tuple[Step, FinishReason | None]:
        started = time.perf_counter()
        self.economy.start_step(self._num_left(request, context))
        candidates = TokenTree(context.tokens[-1])
        proposed = drafter.grow(context, candidates, [0], drafter.budget)
        chosen = self.economy.choose(candidates, proposed)
        tree = candidates.prune(chosen)
        grown = time.perf_counter()
        num_rows = len(context.tokens) - 1 - len(self.target.tokens) + len(tree)
        logits = self.target.score(context.tokens, tree)
        self.target.wait()
        scored = time.perf_counter()
        path, bonus_token = accept(tree, choices(context, tree, logits))
        walked = time.perf_counter()
        emitted = [*(tree.tokens[node] for node in path), bonus_token]
        origins = [*(tree.origins[node] for node in path), TARGET]
        num_kept, reason = self._cut(request, context, emitted)
        self.target.commit(tree, path[:num_kept])
        context.tokens.extend(emitted[:num_kept])
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
        return Step(request.request_id, tokens, stats), reason

    def _start(self, request: GenerateRequest) -> Context:
        """Check the request and set out from its prompt."""
        limits, window = self.target.limits, self.target.max_model_len
        if not request.prompt:
            raise InvalidRequestError("the prompt is empty: give at least one token id.")
        if request.max_tokens < 1:
            raise InvalidRequestError(f"max_tokens is {request.max_tokens}: ask for at least one.")
        if len(request.prompt) + request.max_tokens > window:
            raise InvalidRequestError(
                f"a prompt of {len(request.prompt)} tokens and a reply of {request.max_tokens} "
                f"exceed the window of {window}: shorten either, or raise max_model_len."
            )
        if (problem := _sampling_problem(request, limits.vocab_size)) is not None:
            raise InvalidRequestError(problem)
        if not all(0 <= token < limits.vocab_size for token in request.prompt):
            raise InvalidRequestError(f"token ids must be from 0 to {limits.vocab_size - 1}.")
        self.target.reset(request.prompt)
        eos = () if request.ignore_eos else limits.eos_token_ids
        return Context(
            tokens=list(request.prompt),
            sampler=Sampler(request.sampling, limits.vocab_size, self.target.device),
            stop_ids=frozenset((*request.stop_token_ids, *eos)),
            economy=self.economy,
        )

    def _max_depth(self, request: GenerateRequest, context: Context) -> int:
        """How many draft tokens could be of use: the last token of a reply is always a bonus."""
        num_left = self._num_left(request, context)
        return min(num_left - 1, self.target.max_depth(context.tokens))

    def _num_left(self, request: GenerateRequest, context: Context) -> int:
        """How many tokens the reply may still have."""
        return request.max_tokens - (len(context.tokens) - len(request.prompt))

    def _cut(
        self, request: GenerateRequest, context: Context, emitted: Sequence[int]
    ) -> tuple[int, FinishReason | None]:
        """How many of a step's tokens the reply keeps, and whether it ends with them."""
        num_left = self._num_left(request, context)
        for count, token in enumerate(emitted[:num_left], start=1):
            if token in context.stop_ids:
                return count, "stop"
        return (num_left, "length") if len(emitted) >= num_left else (len(emitted), None)


def _sampling_problem(request: GenerateRequest, vocab_size: int) -> str | None:
    """What is wrong with the sampling that is asked for, if anything is."""
    params = request.sampling
    if not 0 <= params.temperature < math.inf:
        return f"temperature is {params.temperature}: it must be 0 or more."
    if params.top_k < 0:
        return f"top_k is {params.top_k}: it must be 0 or more."
    if not (0 <= params.top_p <= 1 and 0 <= params.min_p <= 1):
        return f"top_p is {params.top_p} and min_p {params.min_p}: they must be from 0 to 1."
    if not 0 <= (request.num_logprobs or 0) <= vocab_size:
        return f"num_logprobs is {request.num_logprobs}: it must be from 0 to {vocab_size}."
    return None


def choices(context: Context, tree: TokenTree, logits: Tensor) -> Callable[[int], int]:
    """The target's token after a node, whose logits are a row (nodes, vocabulary).

    A CPU chooses for the nodes that are asked for alone; a GPU for all at once, to be waited for
    once.
    """
    if logits.is_cpu:
        return partial(choose, context, tree, logits)
    positions = [context.root_position + depth + 1 for depth in tree.depths]
    return context.sampler.choose(logits, positions).__getitem__


def choose(context: Context, tree: TokenTree, logits: Tensor, node: int) -> int:
    """The target's token after a node, whose logits are row `node`."""
    position = context.root_position + tree.depths[node] + 1
    return context.sampler.choose(logits[node : node + 1], [position])[0]


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
