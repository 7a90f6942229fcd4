"""`stagetree bench`: ways of decoding measured side by side, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from engine import ConfigError, SamplingParams
from engine.api import Engine
from engine.benchmark import Comparison, Mode, Result, Workload, compare, machine, modes_of
from server.settings import Settings
from server.text import Tokenizer
from server.version import VERSION

SAMPLINGS = (SamplingParams(temperature=0.0), SamplingParams(temperature=1.0, top_k=50))

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


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked for on the command line; no `prompts` file means the built-in ones."""

    prompts: Path | None
    num_prompts: int | None
    num_tokens: int
    repetitions: int
    modes: Sequence[str]
    json: Path | None


def bench(settings: Settings, options: BenchOptions, console: Console) -> None:
    """Measure, print a table for each temperature, and write `options.json` if it is given."""
    engine = Engine.load(settings.engine_config())
    tokenizer = Tokenizer.load(settings.model)
    modes = _modes(engine, options.modes)
    prompts = [tuple(tokenizer.encode(text)) for text in _texts(options)]
    longest = engine.info.max_model_len - options.num_tokens
    prompts = [prompt[-longest:] for prompt in prompts]
    comparisons = []
    for sampling in SAMPLINGS:
        workload = Workload(prompts, options.num_tokens, sampling, engine.info.eos_token_ids)
        comparisons.append(_compare(engine, modes, workload, options.repetitions, console))
        console.print(_table(comparisons[-1], sampling))
        for result in comparisons[-1].results:
            console.print(_details(result), soft_wrap=True)
    where = f"{machine()['hardware']}, {machine()['threads']} threads"
    console.print(
        f"{where}; {engine.info.dtype}, {len(prompts)} prompts. τ: tokens emitted by a step; cost: "
        "its time in plain steps; passes: draft passes in it."
    )
    if options.json is not None:
        options.json.write_text(json.dumps(_document(engine, options, comparisons), indent=2))


def _modes(engine: Engine, wanted: Sequence[str]) -> list[Mode]:
    known = modes_of(engine.stages)
    names = [mode.name for mode in known]
    if unknown := set(wanted) - set(names):
        raise ConfigError(f"unknown mode {sorted(unknown)[0]!r}. Valid modes: {', '.join(names)}.")
    return [mode for mode in known if not wanted or mode.name in {"plain", *wanted}]


def _texts(options: BenchOptions) -> list[str]:
    if options.prompts is None:
        return list(PROMPTS)[: options.num_prompts]
    try:
        lines = options.prompts.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["prompt"] for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{options.prompts}: {error!r}. It must hold one {{"prompt": "..."}} a line.'
        ) from error
    return texts[: options.num_prompts]


def _compare(
    engine: Engine, modes: Sequence[Mode], workload: Workload, repetitions: int, console: Console
) -> Comparison:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("warming up", total=repetitions * len(modes))

        def advance(mode: str) -> None:
            progress.update(task, advance=1, description=f"{mode:8}")

        return compare(engine, modes, workload, repetitions, advance)


def _table(comparison: Comparison, sampling: SamplingParams) -> Table:
    how = f"T = {sampling.temperature:g}" + (f", top-k {sampling.top_k}" if sampling.top_k else "")
    cut = f"{comparison.num_tokens} tokens, {comparison.share_cut:.0%} cut as repeating"
    table = Table(title=f"{how} ({cut})", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("mode", no_wrap=True)
    for heading in ("tokens/s", "to plain", "spread", "τ", "cost", "nodes", "passes", "TTFT ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in comparison.results:
        table.add_row(
            result.mode,
            f"{result.tokens_per_second:.0f}",
            f"{result.ratio_to_plain:.2f}",
            f"{result.ratio_low:.2f}–{result.ratio_high:.2f}",
            f"{result.acceptance_length:.2f}",
            f"{result.step_cost:.2f}",
            f"{result.nodes_per_step:.1f}",
            f"{result.draft_passes_per_step:.2f}",
            f"{result.time_to_first_token_ms:.1f}",
        )
    return table


def _details(result: Result) -> str:
    """Where a step's time went, and what each stage had accepted."""
    phases = ", ".join(f"{name} {ms:.1f}" for name, ms in result.phases_ms.items())
    accepted = ", ".join(
        f"{name} {stage['num_accepted']} of {stage['num_proposed']}"
        for name, stage in result.stages.items()
    )
    return f"{result.mode:7} ms a step: {phases}" + (f"; accepted: {accepted}" * bool(accepted))


def _document(
    engine: Engine, options: BenchOptions, comparisons: Sequence[Comparison]
) -> dict[str, object]:
    return {
        "stagetree": VERSION,
        "machine": machine(),
        "engine": asdict(engine.info),
        "num_tokens": options.num_tokens,
        "repetitions": options.repetitions,
        "share_cut": [comparison.share_cut for comparison in comparisons],
        "results": [asdict(result) for each in comparisons for result in each.results],
    }
