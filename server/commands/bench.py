"""`stagetree bench`: ways of decoding measured side by side, as tables and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine import ConfigError, Dtype, EngineConfig, SamplingParams, did_you_mean
from engine.api import Engine
from engine.benchmark import (
    PLAIN,
    SAMPLINGS,
    Comparison,
    Mode,
    Workload,
    compare,
    machine,
    modes_by_size,
    plain_speeds,
)
from server.commands.bench_document import STAGED, figures
from server.commands.bench_tables import fastest_plain, legend, tables
from server.commands.prompts import Prompt, encoded, firsts, read_prompts
from server.commands.samples import BEGINNINGS, CHAT
from server.settings import Settings
from server.text import Tokenizer
from server.version import VERSION

_FILE_WIDTH = 100
"""Columns of what is written to a file or a pipe, where nobody's window limits it."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked for on the command line; no `prompts` file means the built-in ones.

    With `chat` prompts go through the model's template. `top_p` stands in place of a top-k of 50.
    `budgets` and `passes` are those of every tree, in all modes but `chain` and `auto`. The first
    `warm` prompts of a category only teach, and `texts` are written at once. Plain decoding is
    measured in the precisions of `beside`, too.
    """

    prompts: Path | None = None
    chat: bool = False
    top_p: float | None = None
    num_prompts: int | None = None
    tokens: int = 64
    repetitions: int = 5
    modes: Sequence[str] = ()
    budgets: Sequence[int] = ()
    passes: int | None = None
    warm: int = 0
    texts: int = 1
    beside: Sequence[str] = ()
    json: Path | None = None


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is measured: the modes on the prompts, and which of them the configuration uses."""

    engine: Engine
    modes: Sequence[Mode]
    configured: str | None
    workloads: Sequence[Workload]
    options: BenchOptions
    dtypes: Sequence[Dtype]


def bench(settings: Settings, options: BenchOptions, console: Console) -> None:
    """Measure, print the tables of each temperature, and write `options.json` if it is given.

    Raises ConfigError for options that do not fit the model or the configuration.
    """
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    plan = _plan(settings, options)
    comparisons = _compare(plan, console)
    for workload, comparison in zip(plan.workloads, comparisons, strict=True):
        for table in tables(comparison, workload.sampling, plan.configured, plan.modes):
            console.print(table)
    num_prompts = len(plan.workloads[0].prompts)
    console.print(legend(plan.engine.info, num_prompts, options.repetitions))
    config = settings.command_config(compile="wait")
    speeds = _plain_speeds(plan, comparisons, config)
    if options.beside:
        console.print(fastest_plain(speeds, [each.sampling for each in plan.workloads]))
    if options.json is not None:
        document = _document(plan, comparisons, speeds)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _plan(settings: Settings, options: BenchOptions) -> _Bench:
    prompts = _prompts(options)
    dtypes = tuple(_dtype(name) for name in options.beside)
    config = settings.command_config(compile="wait")
    if options.texts > 1:
        config = replace(config, max_running=options.texts)
    engine = Engine.load(config)
    config = replace(config, stages=engine.config.stages)
    known, configured = modes_by_size(config, options.budgets, options.passes)
    modes = _chosen(known, options.modes, configured)
    workloads = _workloads(prompts, engine, options, settings.chat_template)
    return _Bench(engine, modes, configured, workloads, options, dtypes)


def _dtype(name: str) -> Dtype:
    known: dict[str, Dtype] = {each: each for each in get_args(Dtype)}
    if name not in known:
        raise ConfigError(f"--beside: unknown dtype {name!r}. {did_you_mean(name, list(known))}")
    return known[name]


def _workloads(
    prompts: Sequence[Prompt], engine: Engine, options: BenchOptions, chat_template: str | None
) -> tuple[Workload, ...]:
    """The prompts as the model reads them, sampled in either way."""
    info = engine.info
    tokenizer = Tokenizer.load(info.model)
    window = info.max_model_len
    taught = firsts(prompts, options.warm)
    counted = [each for each in prompts if not any(each is other for other in taught)]
    lessons, ids = (
        encoded(each, tokenizer, options.chat, chat_template, window, options.tokens)
        for each in (taught, counted)
    )
    greedy, sampled = SAMPLINGS
    if options.top_p is not None:
        sampled = SamplingParams(1.0, top_p=options.top_p)
    workload = Workload(
        ids,
        options.tokens,
        greedy,
        info.eos_token_ids,
        categories=[each.category for each in counted],
        num_texts=options.texts,
        lessons=lessons,
    )
    return workload, replace(workload, sampling=sampled)


def _chosen(known: Sequence[Mode], wanted: Sequence[str], configured: str | None) -> list[Mode]:
    """The wanted modes, plain first; all of them if none is named.

    Of those in several sizes a name without one means all.
    """
    ways = {mode.name: mode.way for mode in known}
    aliases = {} if configured is None else {STAGED: ways[configured]}
    valid = dict.fromkeys([*(n for pair in ways.items() for n in reversed(pair)), *aliases])
    for name in wanted:
        if name not in valid:
            raise ConfigError(f"unknown mode {name!r}. {did_you_mean(name, [*valid])}")
    names = {PLAIN, *(aliases.get(name, name) for name in wanted)}
    return [mode for mode in known if not wanted or names & {mode.name, mode.way}]


def _prompts(options: BenchOptions) -> list[Prompt]:
    """What teaches, and what is counted.

    Raises ConfigError where nothing is left to be counted.
    """
    limit = options.num_prompts and options.warm + options.num_prompts
    if options.prompts is None:
        prompts = firsts(CHAT if options.chat else BEGINNINGS, limit)
    else:
        prompts = read_prompts(options.prompts, limit)
    if len(prompts) == len(firsts(prompts, options.warm)):
        raise ConfigError(f"--warm {options.warm} leaves no prompt to be counted: give more.")
    return prompts


def _compare(plan: _Bench, console: Console) -> list[Comparison]:
    options = plan.options
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    once = sum(mode.size > 0 for mode in plan.modes)
    total = len(plan.workloads) * (options.repetitions * (len(plan.modes) - once) + once)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("warming up", total=total)
        num_done = count()

        def advance(mode: str) -> None:
            progress.update(task, completed=next(num_done), description=mode)

        return [
            compare(plan.engine, plan.modes, workload, options.repetitions, advance)
            for workload in plan.workloads
        ]


def _plain_speeds(
    plan: _Bench, comparisons: Sequence[Comparison], config: EngineConfig
) -> dict[str, list[float]]:
    """By precision and temperature, its own first."""
    (own, *_), options = zip(*(each.results for each in comparisons), strict=True), plan.options
    speeds = {plan.engine.info.dtype: [result.tokens_per_second for result in own]}
    return speeds | plain_speeds(config, plan.dtypes, plan.workloads, options.repetitions)


def _document(
    plan: _Bench, comparisons: Sequence[Comparison], speeds: Mapping[str, Sequence[float]]
) -> dict[str, object]:
    return {
        "stagetree": VERSION,
        "machine": machine(),
        "engine": asdict(plan.engine.info),
        "num_prompts": len(plan.workloads[0].prompts),
        "chat": plan.options.chat,
        "num_tokens": plan.options.tokens,
        "repetitions": plan.options.repetitions,
        "num_warm": len(plan.workloads[0].lessons),
        "num_texts": plan.options.texts,
        "configured": plan.configured,
        "plain_tokens_per_second": speeds,
        **figures(plan.modes, plan.workloads, comparisons, plan.configured),
    }
