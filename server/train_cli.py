"""`stagetree train` and `stagetree ngram`: their flags; `server.commands` does the work."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from server.terminal import model_option, path_option, readable_errors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

train_app = typer.Typer(no_args_is_help=True, help="Train a target, or drafters for a model.")
ngram_app = typer.Typer(no_args_is_help=True, help="Build n-gram tables.")

Options = TypeVar("Options", bound="DataclassInstance")

OutOption = Annotated[Path, path_option(help="The folder to write to.")]
WorkOption = Annotated[
    Path | None,
    path_option(help="Checkpoints, samples and packed texts; OUT.work if left out."),
]
DataOption = Annotated[
    list[Path] | None,
    path_option(
        help='A text, a folder of texts or a .jsonl file of {"text": "..."}; repeatable. '
        "Without it: the Python sources that are installed here."
    ),
]
PromptsOption = Annotated[
    Path | None,
    path_option(
        help='A file of {"prompt": "..."}, one a line: texts that share 12 words in a row with '
        "any are left out."
    ),
]
MinutesOption = Annotated[
    float, typer.Option(min=1e-6, help="Minutes of training, over all sittings.")
]
TargetOption = Annotated[str, model_option(help="The model to draft for: an id or a folder.")]
CompareOption = Annotated[
    list[str] | None,
    model_option(help="Another draft or head of the same target to compare with; repeatable."),
]
BatchOption = Annotated[int, typer.Option(min=32, help="Tokens of a step.")]
LengthOption = Annotated[
    int, typer.Option(min=32, help="Tokens of the longest sequence; less needs less memory.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the training step; needs a C++ compiler.")
]
StepsLimit = Annotated[int | None, typer.Option(min=1, hidden=True)]


@train_app.command("target")
def train_target(
    out: OutOption,
    data: DataOption = None,
    work: WorkOption = None,
    minutes: MinutesOption = 60.0,
    vocab_size: Annotated[int, typer.Option(min=257, help="Entries of its tokenizer.")] = 8192,
    hidden_size: Annotated[int, typer.Option(min=16, help="A multiple of 16.")] = 384,
    layers: Annotated[int, typer.Option(min=1, help="Decoder layers.")] = 6,
    exclude_prompts: PromptsOption = None,
    batch_tokens: BatchOption = 4096,
    max_length: LengthOption = 1024,
    compiled: CompileOption = False,
    max_steps: StepsLimit = None,
) -> None:
    """Train a language model and its tokenizer from scratch."""
    flags = dict(locals())
    with readable_errors():
        from server.commands import train

        options = _pick(train.TrainOptions, flags)
        train.train_target(options, (vocab_size, hidden_size, layers), Console(highlight=False))


@train_app.command("draft")
def train_draft(
    target: TargetOption,
    out: OutOption,
    data: DataOption = None,
    work: WorkOption = None,
    minutes: MinutesOption = 60.0,
    distil: Annotated[
        bool,
        typer.Option("--distil/--plain-text", help="Learn the target's distribution or the text."),
    ] = True,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Train on so many tokens that the target writes."),
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(min=16, help="A quarter of the target's if left out.")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="Decoder layers.")] = 1,
    compare: CompareOption = None,
    exclude_prompts: PromptsOption = None,
    batch_tokens: BatchOption = 4096,
    max_length: LengthOption = 2048,
    compiled: CompileOption = False,
    max_steps: StepsLimit = None,
) -> None:
    """Train a small language model that drafts for a target."""
    flags = dict(locals())
    with readable_errors():
        from server.commands import train

        options = _pick(train.TrainOptions, flags)
        drafter = _pick(train.DrafterOptions, flags)
        train.train_draft(options, drafter, Console(highlight=False))


@train_app.command("head")
def train_head(
    target: TargetOption,
    out: OutOption,
    data: DataOption = None,
    work: WorkOption = None,
    minutes: MinutesOption = 60.0,
    steps: Annotated[int, typer.Option(min=1, max=8, help="Tokens ahead that it learns.")] = 3,
    draft_vocab: Annotated[
        int | None,
        typer.Option(min=1, help="Draft only so many of the commonest tokens: faster passes."),
    ] = None,
    compare: CompareOption = None,
    exclude_prompts: PromptsOption = None,
    batch_tokens: BatchOption = 4096,
    max_length: LengthOption = 2048,
    compiled: CompileOption = False,
    max_steps: StepsLimit = None,
) -> None:
    """Train a head that drafts from a target's hidden states (EAGLE-3)."""
    flags = dict(locals())
    with readable_errors():
        from server.commands import train

        options = _pick(train.TrainOptions, flags)
        drafter = _pick(train.DrafterOptions, flags)
        train.train_head(options, drafter, Console(highlight=False))


@train_app.command("family")
def train_family(
    out: OutOption,
    work: WorkOption = None,
    target_minutes: MinutesOption = 80.0,
    draft_minutes: MinutesOption = 20.0,
    head_minutes: MinutesOption = 30.0,
    samples: Annotated[
        int, typer.Option(min=1, help="Tokens to sample from the draft.")
    ] = 12_000_000,
    distil: Annotated[
        bool, typer.Option("--distil/--plain-text", help="What the draft learns from.")
    ] = False,
    exclude_prompts: PromptsOption = None,
    compiled: CompileOption = False,
) -> None:
    """Train the family that ships: a target, a draft, a head and draft², with their card."""
    flags = dict(locals())
    with readable_errors():
        from server.commands import train

        train.train_family(_pick(train.FamilyOptions, flags), Console(highlight=False))


@ngram_app.command("build")
def build(
    draft: Annotated[str, model_option(help="The model that the table drafts for.")],
    out: OutOption,
    data: DataOption = None,
    work: WorkOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to sample.")] = 10_000_000,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the samples.")] = 1.5,
    max_megabytes: Annotated[float, typer.Option(min=0.01, help="Size of the table.")] = 20.0,
    exclude_prompts: PromptsOption = None,
) -> None:
    """Build draft²: a trigram table from a drafter's samples or from texts, whichever is better."""
    flags = dict(locals())
    with readable_errors():
        from server.commands.ngram import BuildOptions
        from server.commands.ngram import build as run

        run(_pick(BuildOptions, flags), Console(highlight=False))


def _pick(kind: type[Options], flags: Mapping[str, Any]) -> Options:
    """The options that a command understands, of the flags by the same names."""
    return kind(**{field.name: flags[field.name] for field in fields(kind) if field.name in flags})
