"""`stagetree bench`: ways of decoding measured side by side, as tables and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine import ConfigError, SamplingParams, did_you_mean
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
    resized,
)
from server.commands.bench_tables import legend, tables
from server.commands.prompts import Prompt, encoded, read_prompts
from server.commands.samples import CHAT
from server.settings import Settings
from server.text import Tokenizer
from server.version import VERSION

STAGED = "staged"
"""The second name, in the JSON and for `--mode`, of the mode that the configuration uses."""

PROMPTS = (
    'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
    "import argparse\nimport json\nfrom pathlib import Path\n\n\ndef main() -> None:\n",
    'class Stack:\n    """A last-in, first-out list."""\n\n    def __init__(self):\n',
    "def merge_sorted(left, right):\n    result = []\n    i = j = 0\n    while",
    "class TestParser(unittest.TestCase):\n    def test_empty(self):\n        self.assertEqual(",
    'def read_lines(path, encoding="utf-8"):\n    """Yield the stripped lines of a file."""\n',
    "    def __repr__(self):\n        return",
    "try:\n    import numpy as np\nexcept ImportError:\n",
)


_FILE_WIDTH = 100
"""Columns of what is written to a file or a pipe, where nobody's window limits it."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked for on the command line; no `prompts` file means the built-in ones.

    With `chat` prompts go through the model's template. `top_p` stands in place of a top-k of 50.
    `budget` and `passes` are those of every model and head, in all modes but `auto`.
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
    json: Path | None = None


@dataclass(frozen=True, slots=True)
class _Bench:
    """What is measured: the modes on the prompts, and which of them the configuration uses."""

    engine: Engine
    modes: Sequence[Mode]
    configured: str | None
    workloads: Sequence[Workload]
    options: BenchOptions


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
    if options.json is not None:
        document = _document(plan, comparisons)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _plan(settings: Settings, options: BenchOptions) -> _Bench:
    prompts = _prompts(options)
    config = settings.command_config(compile="wait")
    engine = Engine.load(config)
    config = replace(config, stages=engine.config.stages)
    fixed = resized(config, options.budget, options.passes)
    known = modes_of(fixed.stages, fixed.alternatives, limits=engine.config.stages)
    configured = configured_mode(known, fixed.stages)
    modes = _chosen(known, options.modes, configured)
    return _Bench(engine, modes, configured, _workloads(prompts, engine, options), options)


def _workloads(
    prompts: Sequence[Prompt], engine: Engine, options: BenchOptions
) -> tuple[Workload, ...]:
    """The prompts as the model reads them, sampled in either way."""
    info = engine.info
    tokenizer = Tokenizer.load(info.model)
    ids = encoded(prompts, tokenizer, options.chat, info.max_model_len, options.tokens)
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
    if options.prompts is None and options.chat:
        return list(CHAT)[: options.num_prompts]
    if options.prompts is None:
        return [Prompt(text) for text in PROMPTS[: options.num_prompts]]
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


def _document(plan: _Bench, comparisons: Sequence[Comparison]) -> dict[str, object]:
    """As `docs/benchmark.md` describes it."""
    return {
        "stagetree": VERSION,
        "machine": machine(),
        "engine": asdict(plan.engine.info),
        "num_prompts": len(plan.workloads[0].prompts),
        "chat": plan.options.chat,
        "num_tokens": plan.options.tokens,
        "repetitions": plan.options.repetitions,
        "configured": plan.configured,
        "modes": {mode.name: _mode(mode) for mode in plan.modes},
        "temperatures": [
            {
                "temperature": workload.sampling.temperature,
                "top_k": workload.sampling.top_k,
                "top_p": workload.sampling.top_p,
                "num_tokens": comparison.num_tokens,
                "share_cut": comparison.share_cut,
                "num_diverged": comparison.num_diverged,
                "worst": {mode: name for mode, (name, _) in comparison.worst().items()},
            }
            for workload, comparison in zip(plan.workloads, comparisons, strict=True)
        ],
        "results": [result for each in comparisons for result in _results(each, plan.configured)],
        "categories": [
            {"category": name, **asdict(result)}
            for each in comparisons
            for name, results in each.categories.items()
            for result in results
        ],
    }


def _mode(mode: Mode) -> dict[str, object]:
    stages = [{"name": stage.name, **asdict(stage)} for stage in mode.stages]
    return {"speculation": mode.speculation, "stages": stages}


def _results(comparison: Comparison, configured: str | None) -> list[dict[str, object]]:
    """One entry a mode, and that of the configured mode once more as `staged`."""
    again = [
        replace(result, mode=STAGED) for result in comparison.results if result.mode == configured
    ]
    return [asdict(result) for result in (*comparison.results, *again)]
