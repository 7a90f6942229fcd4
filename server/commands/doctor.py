"""`stagetree doctor`: what this machine and this pair allow, what they reach, and why."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine import ConfigError, EngineConfig, SamplingParams
from engine.api import Engine
from engine.benchmark import Examination, Workload, examine, modes_of, resized
from server.commands.bench_tables import category_tables
from server.commands.doctor_findings import advice, choice, precision
from server.commands.doctor_tables import LEGEND, mode_table, pass_tables
from server.commands.prompts import Prompt, encoded, read_prompts
from server.commands.samples import CHAT, CODE
from server.settings import Settings
from server.text import Tokenizer
from server.version import VERSION

_REPETITIONS = 3
_FILE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What is asked for on the command line; neither a prompt nor a file means the samples.

    With `chat` they go through the model's template.
    """

    prompt: str | None = None
    prompts: Path | None = None
    chat: bool = False
    tokens: int = 128
    temperature: float = 0.0
    json: Path | None = None


def doctor(settings: Settings, options: DoctorOptions, console: Console) -> None:
    """Measure, print all of it, and write `options.json` if it is given.

    Raises ConfigError for options that do not fit one another or the model.
    """
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    prompts = _prompts(options)
    config = settings.command_config(compile="wait")
    load_average, *_ = os.getloadavg()  # before we compile, which is no other work
    with console.status("loading") as status:
        engine = Engine.load(config, lambda progress: status.update(progress.phase))
        tokenizer = Tokenizer.load(config.model)
    window, sampling = engine.info.max_model_len, SamplingParams(options.temperature)
    template = settings.chat_template
    workload = Workload(
        encoded(prompts, tokenizer, options.chat, template, window, options.tokens),
        options.tokens,
        sampling,
        engine.info.eos_token_ids,
        categories=[each.category for each in prompts],
    )
    examination = _examine(engine, config, workload, load_average, console)
    _print(examination, config, console)
    if options.json is not None:
        document = _document(examination, config, options, len(prompts))
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _prompts(options: DoctorOptions) -> Sequence[Prompt]:
    if options.prompt is not None and options.prompts is not None:
        raise ConfigError("--prompt and --prompts exclude each other: give one of them.")
    if options.prompts is not None:
        return read_prompts(options.prompts)
    if options.prompt is None:
        return CHAT if options.chat else CODE
    if not options.prompt:
        raise ConfigError("--prompt is empty: give a text to continue.")
    return [Prompt(options.prompt)]


def _examine(
    engine: Engine,
    config: EngineConfig,
    workload: Workload,
    load_average: float,
    console: Console,
) -> Examination:
    fixed = resized(replace(config, stages=engine.config.stages, alternatives=()), None, None)
    modes = modes_of(fixed.stages, limits=engine.config.stages)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=None)
        return examine(
            engine,
            modes,
            workload,
            _REPETITIONS,
            load_average,
            lambda what: progress.update(task, description=f"measuring {what}"),
        )


def _print(examination: Examination, config: EngineConfig, console: Console) -> None:
    where, info = examination.machine, examination.info
    console.print(
        f"{where['hardware']}, {where['cores']} cores; {where['threads']} threads, "
        f"torch {where['torch']}\n"
        f"memory is read at {examination.bytes_per_second / 1e9:.1f} GB/s; "
        f"C++ compiler: {examination.cpp_compiler or 'none'}\n"
        f"{info.model}, {info.num_parameters / 1e6:.1f}M weights, on {info.device}; "
        f"stages: {', '.join(info.stages) or 'none'}\n"
        f"precision: {precision(examination)}\n",
        soft_wrap=True,
    )
    by_category = category_tables(examination.comparison, "by category")
    for table in (*pass_tables(examination.passes), mode_table(examination), *by_category):
        console.print(table)
    console.print(LEGEND)
    for title, sentences in (
        ("What auto chose, and why", choice(examination)),
        ("Advice", advice(examination, config) or ["Nothing is wrong."]),
    ):
        console.print(title, style="italic")
        for sentence in sentences:
            console.print(Padding(sentence, (0, 0, 0, 2)))
        console.print()


def _document(
    examination: Examination, config: EngineConfig, options: DoctorOptions, num_prompts: int
) -> dict[str, object]:
    """As `docs/benchmark.md` describes it."""
    comparison = examination.comparison
    return {
        "stagetree": VERSION,
        "machine": examination.machine,
        "load_average": examination.load_average,
        "bytes_per_second": examination.bytes_per_second,
        "cpp_compiler": examination.cpp_compiler,
        "engine": asdict(examination.info),
        "precision": precision(examination),
        "passes": [asdict(passes) for passes in examination.passes],
        "slowdown": examination.slowdown,
        "num_prompts": num_prompts,
        "num_tokens": comparison.num_tokens,
        "share_cut": comparison.share_cut,
        "num_diverged": comparison.num_diverged,
        "temperature": options.temperature,
        "repetitions": _REPETITIONS,
        "results": [asdict(result) for result in comparison.results],
        "categories": {
            name: [asdict(result) for result in results]
            for name, results in comparison.categories.items()
        },
        "choice": choice(examination),
        "advice": advice(examination, config),
    }
