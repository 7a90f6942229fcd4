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
    SAMPLINGS,
    Comparison,
    Mode,
    Workload,
    compare,
    configured_mode,
    machine,
    modes_of,
    plain_speeds,
    resized,
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
    `budget` and `passes` are those of every model and head, in all modes but `auto`. Plain decoding
    is measured in the precisions of `beside`, too.
    """

    prompts: Path | None = None
    chat: bool = False
    top_p: float | None = None
    num_prompts: int | None = None
    tokens: int = 64
    repetitions: int = 5
    modes: Sequence[str] = ()
    budget: int | None = None
    passes: int | None = None
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
        for table in tables(comparison, workload.sampling, plan.configured):
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
    engine = Engine.load(config)
    config = replace(config, stages=engine.config.stages)
    fixed = resized(config, options.budget, options.passes)
    known = modes_of(fixed.stages, fixed.alternatives, limits=engine.config.stages)
    configured = configured_mode(known, fixed.stages)
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
    ids = encoded(prompts, tokenizer, options.chat, chat_template, window, options.tokens)
    greedy, sampled = SAMPLINGS
    if options.top_p is not None:
        sampled = SamplingParams(1.0, top_p=options.top_p)
    categories = [each.category for each in prompts]
    return tuple(
        Workload(ids, options.tokens, sampling, info.eos_token_ids, categories=categories)
        for sampling in (greedy, sampled)
    )


def _chosen(known: Sequence[Mode], wanted: Sequence[str], configured: str | None) -> list[Mode]:
    """The wanted modes, plain first; all of them if none is named."""
    aliases = {STAGED: configured} if configured else {}
    valid = [*(mode.name for mode in known), *aliases]
    for name in wanted:
        if name not in valid:
            raise ConfigError(f"unknown mode {name!r}. {did_you_mean(name, valid)}")
    names = {aliases.get(name, name) for name in wanted}
    return [mode for mode in known if not names or mode.name in {"plain", *names}]


def _prompts(options: BenchOptions) -> list[Prompt]:
    if options.prompts is None:
        return firsts(CHAT if options.chat else BEGINNINGS, options.num_prompts)
    return read_prompts(options.prompts, options.num_prompts)


def _compare(plan: _Bench, console: Console) -> list[Comparison]:
    options = plan.options
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = len(plan.workloads) * options.repetitions * len(plan.modes)
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
        "configured": plan.configured,
        "plain_tokens_per_second": speeds,
        **figures(plan.modes, plan.workloads, comparisons, plan.configured),
    }
