"""A scripted engine with the shape of `engine.EngineProcess`, and a tokenizer made on the spot."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from functools import cache

from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from engine import (
    Constraint,
    EmittedToken,
    EngineDiedError,
    Finished,
    GenerateRequest,
    InvalidRequestError,
    LoadProgress,
    ModelInfo,
    ModelLoadError,
    Output,
    SpeculationStats,
    StageStats,
    StepStats,
    StepTrace,
    TokenizerState,
    Update,
)
from server.text import Tokenizer

EOS = 0
WINDOW = 256


@cache
def byte_level_tokenizer() -> Tokenizer:
    """A byte-level BPE of 320 entries; id 0 is <|endoftext|>, and most bytes are tokens."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(["def hello(world):\n    return world + 1\n"] * 4, trainer)
    return Tokenizer(raw)


def blocks(text: str, width: int = 2) -> list[list[int]]:
    """A text as the steps of a script, `width` tokens each."""
    ids = byte_level_tokenizer().encode(text)
    return [ids[at : at + width] for at in range(0, len(ids), width)]


Script = Callable[[GenerateRequest], list[list[int]]]


@dataclass
class Behaviour:
    """What every engine of one test does; shared by those that replace a dead one."""

    script: Script = lambda request: blocks("hello world, hello world, hello world")
    step_seconds: float = 0.0
    num_seats: int = 1
    window: int = WINDOW
    load_seconds: float = 0.0
    load_error: str | None = None
    dies_loading: bool = False
    dies_at_step: int | None = None
    tokenizer_eos: tuple[int, ...] = ()
    chat_templates: dict[str, str] = field(default_factory=dict)
    tokenizer: Callable[[], Tokenizer] = byte_level_tokenizer
    num_spawned: int = 0
    num_tokenizers_read: int = 0
    requests: list[GenerateRequest] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    compile_seconds: float = 0.0
    finished: list[Finished] = field(default_factory=list)
    num_running: int = 0
    seats: set[int] = field(default_factory=set)

    def spawn(self) -> "FakeEngine":
        """A fresh engine process."""
        self.num_spawned += 1
        return FakeEngine(self)


class FakeEngine:
    """Replies by script, a request in each seat, and obeys limits, EOS and cancel as a real one."""

    info = ModelInfo(
        model="fake",
        max_model_len=WINDOW,
        vocab_size=320,
        eos_token_ids=(EOS,),
        dtype="float32",
        device="cpu",
        num_parameters=1000,
        stages=("draft", "ngram"),
        passes={"target": "compiled", "draft": "eager"},
        is_compiling=True,
        precision="as asked for",
        seating="as configured",
        refusals={"draft": "what was compiled is wrong"},
    )

    async def read_tokenizer(self) -> TokenizerState:
        self.behaviour.num_tokenizers_read += 1
        state = self.behaviour.tokenizer().inner.to_str()
        return TokenizerState(
            state,
            self.behaviour.tokenizer_eos,
            chat_templates=self.behaviour.chat_templates,
            special_tokens={"eos_token": "<|endoftext|>"},
        )

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.info = replace(
            type(self).info, num_seats=behaviour.num_seats, max_model_len=behaviour.window
        )
        self.progress = LoadProgress("starting", 0.0)
        self._died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.progress = LoadProgress("loading weights", 0.5)

    async def wait_ready(self) -> ModelInfo:
        await asyncio.sleep(self.behaviour.load_seconds)
        if self.behaviour.load_error:
            raise ModelLoadError(self.behaviour.load_error)
        if self.behaviour.dies_loading:
            raise EngineDiedError("exit code -9 while loading")
        self.progress = LoadProgress("ready", 1.0)
        return self.info

    async def compile(self, constraint: Constraint) -> None:
        self.behaviour.constraints.append(constraint)
        await asyncio.sleep(self.behaviour.compile_seconds)
        if "refuse me" in constraint.source:
            raise InvalidRequestError("the engine cannot compile this")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Update]:
        behaviour = self.behaviour
        assert behaviour.num_running < behaviour.num_seats, "the engine has no seat for it"
        if request.sampling.seed == 404:
            raise InvalidRequestError("the engine cannot run this")
        behaviour.requests.append(request)
        behaviour.num_running += 1
        seat = next(free for free in range(behaviour.num_seats) if free not in behaviour.seats)
        behaviour.seats.add(seat)
        stats = SpeculationStats()
        end = Finished(request.request_id, "cancelled", stats)
        try:
            steps = self._blocks(request)
            for number, tokens in enumerate(steps):
                await asyncio.sleep(behaviour.step_seconds)
                if number == behaviour.dies_at_step:
                    self.die("exit code -11")
                if self._died.done():
                    raise EngineDiedError(self._died.result())
                stats.add(step_stats(len(tokens)))
                if number == len(steps) - 1:
                    end = self._end(request, tokens, stats)
                finished = end if number == len(steps) - 1 else None
                yield Update(request.request_id, self._step(request, tokens, seat), finished)
        finally:
            if end.reason == "cancelled":
                # A step that has begun is finished before the engine is free.
                await asyncio.sleep(behaviour.step_seconds)
            behaviour.num_running -= 1
            behaviour.seats.remove(seat)
            behaviour.finished.append(end)

    async def wait_died(self) -> str:
        return await asyncio.shield(self._died)

    async def close(self) -> None:
        self.die("closed")

    def die(self, reason: str) -> None:
        if not self._died.done():
            self._died.set_result(reason)

    def _blocks(self, request: GenerateRequest) -> list[list[int]]:
        """The script cut where the engine would cut it: after a stop id, or at max_tokens."""
        kept: list[list[int]] = []
        left = request.max_tokens
        for block in self.behaviour.script(request) if left else [[]]:
            kept.append([])
            for token in block:
                kept[-1].append(token)
                left -= 1
                if left == 0 or token in stop_ids(request):
                    return kept
        return kept

    def _end(
        self, request: GenerateRequest, tokens: list[int], stats: SpeculationStats
    ) -> Finished:
        if tokens and tokens[-1] in stop_ids(request):
            return Finished(request.request_id, "stop", stats, tokens[-1])
        return Finished(request.request_id, "length", stats)

    def _step(self, request: GenerateRequest, tokens: list[int], seat: int) -> Output:
        emitted = tuple(self._token(request, token) for token in tokens)
        trace = step_trace(tokens) if request.is_traced else None
        stats = step_stats(len(tokens), trace)
        return Output(request.request_id, emitted, stats, num_cached_tokens=3, seat=seat)

    def _token(self, request: GenerateRequest, token: int) -> EmittedToken:
        if request.num_logprobs is None:
            return EmittedToken(token)
        others = tuple((i + 1, float("-inf")) for i in range(request.num_logprobs))
        return EmittedToken(token, "target", -0.25, others)


def stop_ids(request: GenerateRequest) -> set[int]:
    """What ends a text, by the request and by the model."""
    return {*request.stop_token_ids, *(() if request.ignore_eos else (EOS,))}


def step_trace(tokens: list[int]) -> StepTrace:
    """A tree whose path are all tokens but the last, which is the bonus token; eight nodes in all.

    The others hang on the root.
    """
    path = tokens[:-1]
    others = range(300, 307 - len(path))
    return StepTrace(
        tokens=(299, *path, *others),
        parents=(-1, *range(len(path)), *(0 for _ in others)),
        origins=("", *("draft" for _ in path), *("ngram" for _ in others)),
        estimates=(1.0, *(0.8 for _ in path), *(0.1 for _ in others)),
        path=tuple(range(1, 1 + len(path))),
        bonus_token=tokens[-1] if tokens else EOS,
        text=0,
        nodes_by_text=(8, 3),
        milliseconds=4.0,
        growing_milliseconds=1.0,
        scoring_milliseconds=2.0,
        choosing_milliseconds=0.5,
    )


def step_stats(num_tokens: int, trace: StepTrace | None = None) -> StepStats:
    """A step of 8 nodes that accepted all but its bonus token, in 4 ms."""
    accepted = max(0, num_tokens - 1)
    return StepStats(
        num_nodes=8,
        num_accepted_drafts=accepted,
        milliseconds=4.0,
        target_milliseconds=2.0,
        stages=(
            StageStats(
                "draft", num_proposed=5, num_accepted=accepted, num_passes=2, milliseconds=1
            ),
            StageStats("ngram", 2, 0, num_guesses=4, num_confirmed=3, num_passes=6),
        ),
        trace=trace,
    )
