"""Every mode on the same prompts, seeds and tokens, interleaved and timed.

Every repetition runs every mode on every prompt, so that a machine that slows down slows all of
them. Speculation does not change the text, so all modes emit the same tokens; a text that falls
into a loop is cut at its first repeated 16-gram, since loops flatter every speculator. In less than
float32 a near tie may fall the other way, and the text goes on differently: such texts are counted.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.api import Engine
from engine.benchmark.figures import Divergence, Result, Run, result_of
from engine.benchmark.modes import PLAIN, Mode
from engine.errors import ConfigError
from engine.request import Finished, GenerateRequest, Output, SamplingParams

_LOOP = 16


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of token ids, how much of each reply to write, and how to sample it.

    `with_loops` leaves replies whole that repeat themselves. `categories` name the kind of each
    prompt, if they are of several.
    """

    prompts: Sequence[tuple[int, ...]]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...] = ()
    with_loops: bool = False
    categories: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All modes at one temperature, and how much of the text was cut for repeating itself.

    `num_diverged` are the texts, of all modes and repetitions, that rounding has changed.
    `categories` have the results of each alone, from the same runs.
    """

    results: list[Result]
    num_tokens: int
    share_cut: float
    num_diverged: int = 0
    categories: Mapping[str, list[Result]] = field(default_factory=dict)

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

    Raises RuntimeError if a mode changes a text in float32, ConfigError if no text is long enough
    to time.
    """
    passages, share_cut = passages_of(engine, workload)
    runs: dict[str, list[Run]] = {mode.name: [] for mode in modes}
    for mode in modes:  # one round that is not counted: caches, allocators, branch predictors
        run_mode(engine, mode, passages[:1])
    for repetition in range(repetitions):
        shift = repetition % len(modes)
        for mode in [*modes[shift:], *modes[:shift]]:
            on_run(mode.name)
            runs[mode.name].append(run_mode(engine, mode, passages))
    places: dict[str, list[int]] = {}
    for place, passage in enumerate(passages):
        places.setdefault(passage.category, []).append(place)
    return Comparison(
        _results(modes, runs, passages, range(len(passages))),
        sum(len(passage.text) for passage in passages),
        share_cut,
        sum(len(run.divergences) for mode in modes for run in runs[mode.name]),
        {name: _results(modes, runs, passages, places[name]) for name in places if name},
    )


def _results(
    modes: Sequence[Mode],
    runs: Mapping[str, Sequence[Run]],
    passages: Sequence[Passage],
    places: Collection[int],
) -> list[Result]:
    """The figures of every mode over these of the passages."""
    num_rated = sum(len(passages[place].text) - 1 for place in places)
    temperature = passages[0].request.sampling.temperature
    parts = {name: [run.part(places) for run in found] for name, found in runs.items()}
    return [
        result_of(mode.name, temperature, num_rated, parts[mode.name], parts[PLAIN])
        for mode in modes
    ]


def passages_of(engine: Engine, workload: Workload) -> tuple[list[Passage], float]:
    """The prompts that have a text to time, and the share of all text that repeated itself.

    Raises ConfigError if no text is long enough.
    """
    requests = list(_requests(workload))
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


def _requests(workload: Workload) -> Iterator[GenerateRequest]:
    for index, prompt in enumerate(workload.prompts):
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


def run_mode(engine: Engine, mode: Mode, passages: Sequence[Passage]) -> Run:
    """One mode over all passages; raises RuntimeError if it changes a text in float32."""
    engine = engine.with_stages(mode.stages)  # a fresh look-up: no answers from an earlier run
    _displace_prompts(engine, mode, passages[0].request)
    run = Run()
    for index, passage in enumerate(passages):
        ids = _timed(engine, mode, passage, run)
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


def _timed(engine: Engine, mode: Mode, passage: Passage, run: Run) -> list[int]:
    """Decode a passage and note its times and steps: the text that came of it."""
    request = replace(
        passage.request,
        max_tokens=len(passage.text),
        speculation=mode.speculation,
        # A text that diverges is still as long as the others.
        ignore_eos=True,
        stop_token_ids=(),
    )
    ids: list[int] = []
    num_before = len(run.steps)
    first_token = started = time.perf_counter()
    for item in engine.generate(request):
        if isinstance(item, Finished):
            break
        if not ids:
            first_token = time.perf_counter()
        else:
            run.steps.append(item.stats)
        ids += [token.token_id for token in item.tokens]
    run.seconds.append(time.perf_counter() - first_token)
    run.first_token_seconds.append(first_token - started)
    run.num_steps.append(len(run.steps) - num_before)
    return ids
