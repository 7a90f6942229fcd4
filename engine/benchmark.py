"""Modes of decoding measured side by side: the same weights, prompts, seeds and tokens.

Every repetition runs every mode on every prompt, interleaved, so that a machine that slows down
slows all of them. Speculation does not change the text, so all modes emit the same tokens; a text
that falls into a loop is cut at its first repeated 16-gram, since loops flatter every speculator.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import transformers

from engine.api import Engine
from engine.config import ModelStageConfig, NgramStageConfig, StageConfig
from engine.request import Finished, GenerateRequest, SamplingParams, Speculation, Step
from engine.stats import SpeculationStats

PLAIN = "plain"
_LOOP = 16
_CHAIN_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of decoding: a list of stages, and whether it may fall back to plain steps."""

    name: str
    stages: tuple[StageConfig, ...]
    speculation: Speculation = "always"


def modes_of(stages: Sequence[StageConfig]) -> list[Mode]:
    """What can be compared with these stages: from plain decoding up to all of them, and `auto`."""
    models = [stage for stage in stages if isinstance(stage, ModelStageConfig)]
    ngrams = [stage for stage in stages if isinstance(stage, NgramStageConfig)]
    modes = [Mode(PLAIN, (), "off")]
    if models:
        chain = replace(models[0], budget=_CHAIN_LENGTH, passes=_CHAIN_LENGTH, width=1, children=1)
        modes += [Mode("chain", (chain,)), Mode("tree", tuple(models))]
    if ngrams:
        modes.append(Mode("ngram", tuple(ngrams)))
    if models and ngrams:
        modes.append(Mode("staged", tuple(stages)))
    if stages:
        modes.append(Mode("auto", tuple(stages), "auto"))
    return modes


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of token ids, how much of each reply to write, and how to sample it."""

    prompts: Sequence[tuple[int, ...]]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class Run:
    """One mode over all prompts, once: tokens and seconds after each first token, and counts."""

    num_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: list[float] = field(default_factory=list)
    stats: SpeculationStats = field(default_factory=SpeculationStats)

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, the first token of every reply left out."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Result:
    """What a mode did at one temperature; `ratio_low` and `ratio_high` span the repetitions.

    `step_cost` is the time of a step in plain steps; `phases_ms` is the mean time of a step by
    who spent it; `stages` holds each stage's counts over one repetition.
    """

    mode: str
    temperature: float
    tokens_per_second: float
    ratio_to_plain: float
    ratio_low: float
    ratio_high: float
    acceptance_length: float
    step_cost: float
    draft_passes_per_step: float
    nodes_per_step: float
    time_to_first_token_ms: float
    stages: Mapping[str, Mapping[str, Any]]
    phases_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All modes at one temperature, and how much of the text was cut for repeating itself."""

    results: list[Result]
    num_tokens: int
    share_cut: float


def compare(
    engine: Engine,
    modes: Sequence[Mode],
    workload: Workload,
    repetitions: int,
    on_run: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure `modes`, of which the first must be plain; raises RuntimeError if a text differs."""
    texts = [_text(engine, request) for request in _requests(workload, PLAIN)]
    lengths = [_length_without_loop(text) for text in texts]
    runs: dict[str, list[Run]] = {mode.name: [] for mode in modes}
    for mode in modes:  # one round that is not counted: caches, allocators, branch predictors
        _measure(engine, mode, workload, lengths[:1], texts)
    for repetition in range(repetitions):
        shift = repetition % len(modes)
        for mode in [*modes[shift:], *modes[:shift]]:
            on_run(mode.name)
            runs[mode.name].append(_measure(engine, mode, workload, lengths, texts))
    temperature = workload.sampling.temperature
    results = [_result(mode.name, temperature, runs[mode.name], runs[PLAIN]) for mode in modes]
    written = sum(map(len, texts))
    return Comparison(results, sum(lengths), 1 - sum(lengths) / written)


def _requests(workload: Workload, name: str) -> Iterator[GenerateRequest]:
    for index, prompt in enumerate(workload.prompts):
        yield GenerateRequest(
            request_id=f"{name}-{index}",
            prompt=prompt,
            max_tokens=workload.max_tokens,
            sampling=replace(workload.sampling, seed=workload.sampling.seed + index),
            stop_token_ids=workload.stop_token_ids,
        )


def _text(engine: Engine, request: GenerateRequest) -> list[int]:
    steps = engine.generate(replace(request, speculation="off"))
    return [token.token_id for step in steps if isinstance(step, Step) for token in step.tokens]


def _length_without_loop(text: Sequence[int]) -> int:
    """How many tokens come before a run of 16 is there for the second time."""
    seen = set()
    for end in range(_LOOP, len(text) + 1):
        run = tuple(text[end - _LOOP : end])
        if run in seen:
            return end - 1
        seen.add(run)
    return len(text)


def _measure(
    engine: Engine,
    mode: Mode,
    workload: Workload,
    lengths: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> Run:
    engine = engine.with_stages(mode.stages)  # a fresh look-up: no answers from an earlier run
    run = Run()
    requests = zip(_requests(workload, mode.name), lengths, texts, strict=False)
    for request, length, text in requests:
        request = replace(request, max_tokens=length, speculation=mode.speculation)
        ids: list[int] = []
        first_token = started = time.perf_counter()
        for item in engine.generate(request):
            if isinstance(item, Finished):
                break
            if not ids:
                first_token = time.perf_counter()
            else:
                run.stats.add(item.stats)
            ids += [token.token_id for token in item.tokens]
        run.seconds += time.perf_counter() - first_token
        run.first_token_seconds.append(first_token - started)
        run.num_tokens += len(ids) - 1
        if ids != list(text[:length]):
            raise RuntimeError(f"mode {mode.name} changed the text of prompt {request.request_id}")
    return run


def _result(mode: str, temperature: float, runs: list[Run], plain: list[Run]) -> Result:
    rates = [run.tokens_per_second for run in runs]
    ratios = [rate / base.tokens_per_second for rate, base in zip(rates, plain, strict=True)]
    stats = runs[-1].stats
    num_steps = max(1, stats.num_steps)
    step_ms = statistics.median(r.seconds * 1e3 / max(1, r.stats.num_steps) for r in runs)
    plain_ms = statistics.median(r.seconds * 1e3 / max(1, r.stats.num_steps) for r in plain)
    stages_ms = {name: stage.milliseconds / num_steps for name, stage in stats.stages.items()}
    target_ms = stats.target_milliseconds / num_steps
    other_ms = stats.milliseconds / num_steps - target_ms - sum(stages_ms.values())
    passes = [stage.num_passes for name, stage in stats.stages.items() if "ngram" not in name]
    return Result(
        mode=mode,
        temperature=temperature,
        tokens_per_second=statistics.median(rates),
        ratio_to_plain=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        acceptance_length=stats.mean_acceptance_length,
        step_cost=step_ms / plain_ms,
        draft_passes_per_step=sum(passes) / num_steps,
        nodes_per_step=1 + stats.num_draft_tokens / num_steps,
        time_to_first_token_ms=1e3
        * statistics.median(seconds for run in runs for seconds in run.first_token_seconds),
        stages={name: asdict(stage) for name, stage in stats.stages.items()},
        phases_ms={"target": target_ms, **stages_ms, "other": other_ms},
    )


def machine() -> dict[str, str | int]:
    """What a figure must be quoted with: the hardware and the versions beneath the engine."""
    is_gpu = torch.cuda.is_available()
    processor = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return {
        "hardware": torch.cuda.get_device_name() if is_gpu else processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
