"""Every mode on the same prompts, seeds and tokens, interleaved and timed.

Every repetition runs every mode on every prompt, so that a machine that slows down slows all of
them. Speculation does not change the text, so all modes emit the same tokens; a text that falls
into a loop is cut at its first repeated 16-gram, since loops flatter every speculator. In less than
float32 a near tie may fall the other way, and the text goes on differently: such texts are counted.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.api import Engine
from engine.benchmark.curves import Best, best_size_of
from engine.benchmark.figures import Divergence, Result, Run, result_of
from engine.benchmark.modes import PLAIN, Mode
from engine.benchmark.passes import pass_times
from engine.economy import TARGET_PASS
from engine.errors import ConfigError
from engine.request import GenerateRequest, Output, SamplingParams

_LOOP = 16
_SHORTEST_SHARE = 4
"""Tokens for each text written at once: what is shorter ends while others begin."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of token ids, how much of each reply to write, and how to sample it.

    `with_loops` leaves replies whole that repeat themselves. `categories` name the kind of each
    prompt, if they are of several. `num_texts` of one category are written at once. What stages
    remember is warm if there are `lessons`, prompts that every run writes first and nobody counts.
    """

    prompts: Sequence[tuple[int, ...]]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...] = ()
    with_loops: bool = False
    categories: Sequence[str] = ()
    num_texts: int = 1
    lessons: Sequence[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All modes at one temperature, and how much of the text was cut for repeating itself.

    `num_diverged` are the texts, of all modes and repetitions, that rounding has changed.
    `categories` have the results of each alone, from the same runs. Where modes are compared in
    several sizes, `pass_ms` are the milliseconds of the passes that those need, by rows, and `best`
    is what the sizes allow by category, "" being all of them.
    """

    results: list[Result]
    num_tokens: int
    share_cut: float
    num_diverged: int = 0
    categories: Mapping[str, list[Result]] = field(default_factory=dict)
    pass_ms: Mapping[int, float] = field(default_factory=dict)
    best: Mapping[str, Best] = field(default_factory=dict)

    def worst(self) -> dict[str, tuple[str, Result]]:
        """By mode, the category in which it is slowest beside plain; empty without categories."""
        pairs = [(name, result) for name, found in self.categories.items() for result in found]
        ordered = sorted(pairs, key=lambda pair: pair[1].ratio_to_plain, reverse=True)
        return {result.mode: (name, result) for name, result in ordered}


@dataclass(frozen=True, slots=True)
class Passage:
    """A request, and the text that every mode must answer it with: two tokens or more."""

    request: GenerateRequest
    text: tuple[int, ...]
    category: str = ""


def compare(
    engine: Engine,
    modes: Sequence[Mode],
    workload: Workload,
    repetitions: int,
    on_run: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure `modes`, of which the first must be plain, telling `on_run` of each before it runs.

    What has a size runs in the first repetition alone: what it brings is the same every time.
    Raises RuntimeError if a mode changes a text in float32, ConfigError if no text is long enough
    to time.
    """
    passages, share_cut = passages_of(engine, workload)
    lessons, num_texts = [*_requests(workload, workload.lessons)], workload.num_texts
    passages = _in_company(passages, num_texts)
    runs: dict[str, list[Run]] = {mode.name: [] for mode in modes}
    passes: dict[int, list[float]] = {}
    for mode in modes:  # one round that is not counted: caches, allocators, branch predictors
        run_mode(engine, mode, passages[:num_texts], num_texts)
    for repetition in range(repetitions):
        _time_passes(engine, modes, passages, passes, num_texts)
        shift = repetition % len(modes)
        for mode in [*modes[shift:], *modes[:shift]]:
            if not (mode.size and repetition):
                on_run(mode.name)
                runs[mode.name].append(run_mode(engine, mode, passages, num_texts, lessons))
    return _compared(modes, runs, passages, passes, share_cut)


def _in_company(passages: Sequence[Passage], num_texts: int) -> list[Passage]:
    """So many of one category after the other, of one length; those that are left over are not.

    Raises ConfigError if there are not so many of any.
    """
    if num_texts == 1:
        return [*passages]
    together: list[Passage] = []
    for category in dict.fromkeys(each.category for each in passages):
        long = [
            each
            for each in passages
            if each.category == category and len(each.text) >= _SHORTEST_SHARE * num_texts
        ]
        long.sort(key=lambda each: len(each.text), reverse=True)
        for start in range(0, len(long) - num_texts + 1, num_texts):
            group = long[start : start + num_texts]
            together += [replace(each, text=each.text[: len(group[-1].text)]) for each in group]
    if not together:
        raise ConfigError(
            f"there are no {num_texts} replies of one category that are long enough to be written "
            "at once: give more prompts, or ask for more --tokens."
        )
    return together


def _time_passes(
    engine: Engine,
    modes: Sequence[Mode],
    passages: Sequence[Passage],
    passes: dict[int, list[float]],
    num_texts: int,
) -> None:
    """Time the passes that modes in several sizes need, behind a text of the usual length."""
    widths = [num_texts * (1 + mode.size) for mode in modes if mode.size]
    if not widths:
        return
    texts = sorted([(*each.request.prompt, *each.text) for each in passages], key=len)
    scorers = {TARGET_PASS: engine.scorers[TARGET_PASS]}
    widths = sorted({num_texts, *widths})
    times = pass_times(scorers, texts[len(texts) // 2], widths)
    for width in widths:
        passes.setdefault(width, []).append(times[TARGET_PASS, width])


def _compared(
    modes: Sequence[Mode],
    runs: Mapping[str, Sequence[Run]],
    passages: Sequence[Passage],
    passes: Mapping[int, Sequence[float]],
    share_cut: float,
) -> Comparison:
    """What came of all runs, whole and by category."""
    num_texts = runs[PLAIN][0].num_texts
    places: dict[str, list[int]] = {"": [*range(len(passages) // num_texts)]}
    for place, passage in enumerate(passages[::num_texts]):
        if passage.category:
            places.setdefault(passage.category, []).append(place)
    results: dict[str, list[Result]] = {}
    best: dict[str, Best] = {}
    temperature = passages[0].request.sampling.temperature
    for name, chosen in places.items():
        parts = {mode: [run.part(chosen) for run in found] for mode, found in runs.items()}
        texts = [passages[at * num_texts + i].text for at in chosen for i in range(num_texts)]
        num_rated = sum(len(text) - 1 for text in texts)
        results[name] = [
            result_of(mode.name, temperature, num_rated, parts[mode.name], parts[PLAIN])
            for mode in modes
        ]
        if (found := best_size_of(modes, parts, passes)) is not None:
            best[name] = found
    return Comparison(
        results.pop(""),
        sum(len(passage.text) for passage in passages),
        share_cut,
        sum(len(run.divergences) for found in runs.values() for run in found),
        results,
        {width: statistics.median(times) for width, times in passes.items()},
        best,
    )


def passages_of(engine: Engine, workload: Workload) -> tuple[list[Passage], float]:
    """The prompts that have a text to time, and the share of all text that repeated itself.

    Raises ConfigError if no text is long enough.
    """
    requests = list(_requests(workload, workload.prompts))
    written = [_text(engine, request) for request in requests]
    texts = written
    if not workload.with_loops:
        texts = [text[: length_without_loop(text)] for text in written]
    categories = workload.categories or [""] * len(requests)
    given = zip(requests, texts, categories, strict=True)
    passages = [Passage(*each) for each in given if len(each[1]) > 1]
    if not passages:
        raise ConfigError("every reply ended with its first token: give prompts that go on.")
    return passages, 1 - sum(map(len, texts)) / sum(map(len, written))


def _requests(workload: Workload, prompts: Sequence[tuple[int, ...]]) -> Iterator[GenerateRequest]:
    for index, prompt in enumerate(prompts):
        yield GenerateRequest(
            request_id=str(index),
            prompt=prompt,
            max_tokens=workload.max_tokens,
            sampling=replace(workload.sampling, seed=workload.sampling.seed + index),
            stop_token_ids=workload.stop_token_ids,
        )


def _text(engine: Engine, request: GenerateRequest) -> tuple[int, ...]:
    steps = engine.generate(replace(request, speculation="off"))
    return tuple(t.token_id for step in steps if isinstance(step, Output) for t in step.tokens)


def length_without_loop(text: Sequence[int]) -> int:
    """How many tokens come before a run of 16 is there for the second time."""
    seen = set()
    for end in range(_LOOP, len(text) + 1):
        run = tuple(text[end - _LOOP : end])
        if run in seen:
            return end - 1
        seen.add(run)
    return len(text)


def run_mode(
    engine: Engine,
    mode: Mode,
    passages: Sequence[Passage],
    num_texts: int = 1,
    lessons: Sequence[GenerateRequest] = (),
) -> Run:
    """One mode over all passages, `num_texts` of them at once, after its lessons.

    Raises RuntimeError if it changes a text in float32.
    """
    engine = engine.with_stages(mode.stages)  # a fresh look-up: no answers from an earlier run
    _displace_prompts(engine, mode, passages[0].request)
    for lesson in lessons:
        list(engine.generate(replace(lesson, speculation=mode.speculation)))
    run = Run(num_texts=num_texts)
    for start in range(0, len(passages), num_texts):
        group = passages[start : start + num_texts]
        written = _timed(engine, mode, group, run)
        for index, (passage, ids) in enumerate(zip(group, written, strict=True), start):
            if (divergence := parted(index, passage.text, ids)) is None:
                continue
            if engine.info.dtype == "float32":
                prompt = passage.request.request_id
                raise RuntimeError(f"mode {mode.name} changed the text of prompt {prompt}")
            run.divergences.append(divergence)
    return run


def parted(index: int, text: Sequence[int], other: Sequence[int]) -> Divergence | None:
    """Where another text of the same length parts from that of a passage; None if nowhere."""
    for place, (token, given) in enumerate(zip(text, other, strict=True)):
        if token != given:
            return Divergence(index, place, given)
    return None


def _displace_prompts(engine: Engine, mode: Mode, request: GenerateRequest) -> None:
    """Generate from one token at every seat, or the last run leaves a prompt in the caches."""
    short = replace(request, prompt=request.prompt[-1:], max_tokens=1)
    for _ in range(engine.info.num_seats):
        list(engine.generate(replace(short, speculation=mode.speculation)))


def _timed(
    engine: Engine, mode: Mode, group: Sequence[Passage], run: Run
) -> Sequence[Sequence[int]]:
    """Write passages at once and note their times and steps: the texts that came of them.

    What counts is the time from when all have begun until one has ended.
    """
    requests = [_as_measured(passage, mode) for passage in group]
    if len(requests) > 1:  # all are read before, or the first would have ended when the last begins
        for request in requests:
            list(engine.generate(replace(request, max_tokens=0)))
    ids: dict[str, list[int]] = {request.request_id: [] for request in requests}
    num_before, num_rated = len(run.steps), 0
    begun = ended = 0.0
    started = time.perf_counter()
    for request in requests:
        engine.add(request)
    while engine.is_busy:
        events = engine.step()
        now = time.perf_counter()
        outputs = [event for event in events if isinstance(event, Output)]
        if begun and not ended:
            run.steps += [output.stats for output in outputs]
            num_rated += sum(len(output.tokens) for output in outputs)
            ended = now if len(outputs) < len(events) else 0.0
        for output in outputs:
            ids[output.request_id] += [token.token_id for token in output.tokens]
        if not begun and all(ids.values()):
            begun = now
    whole = sum(len(passage.text) - 1 for passage in group)
    run.seconds.append((ended - begun) * whole / num_rated)
    run.first_token_seconds.append(begun - started)
    run.num_steps.append(len(run.steps) - num_before)
    return [*ids.values()]


def _as_measured(passage: Passage, mode: Mode) -> GenerateRequest:
    """A text that diverges is still as long as the others."""
    return replace(
        passage.request,
        max_tokens=len(passage.text),
        speculation=mode.speculation,
        ignore_eos=True,
        stop_token_ids=(),
    )
