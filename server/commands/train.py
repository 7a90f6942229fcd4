"""`stagetree train`: a target, drafters for a model, and the family that ships."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from engine import ConfigError
from engine.training import (
    CHAIN,
    LONG_LENGTHS,
    DrafterFigures,
    Family,
    FamilyPlan,
    Lengths,
    Progress,
    Recipe,
    StreamFacts,
    Texts,
    Workshop,
    check_drafters,
    family_plan,
    make_target,
    read_prompts,
)
from server.commands.watch import Watch, percentages, tell

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What every training is told; a `work` of None is a folder beside `out`."""

    out: Path
    work: Path | None
    data: Sequence[Path] | None
    exclude_prompts: Path | None
    minutes: float
    batch_tokens: int
    max_length: int
    max_steps: int | None
    compiled: bool

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.work or beside(self.out)

    @property
    def texts(self) -> Texts:
        """What to train on."""
        return own_texts(self.data, self.exclude_prompts)

    def recipe(self, lengths: Lengths) -> Recipe:
        """How long to train, and on sequences of these lengths at most."""
        recipe = Recipe(
            self.minutes,
            self.max_steps,
            self.batch_tokens,
            lengths,
            is_compiled=self.compiled,
        )
        return recipe.up_to(self.max_length)


@dataclass(frozen=True, slots=True)
class DrafterOptions:
    """For what target, beside what other drafters of it; `samples` None is to train on texts."""

    target: str
    compare: Sequence[str] | None
    samples: int | None = None
    distil: bool = False
    hidden_size: int | None = None
    layers: int = 1
    steps: int = 3
    draft_vocab: int | None = None

    @property
    def others(self) -> Sequence[str]:
        """The drafters to compare with."""
        return self.compare or ()


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """Budgets of the family's members; `samples` are tokens."""

    out: Path
    work: Path | None
    target_minutes: float
    draft_minutes: float
    head_minutes: float
    samples: int
    distil: bool
    exclude_prompts: Path | None
    compiled: bool

    @property
    def plan(self) -> FamilyPlan:
        """The family that these budgets make."""
        return family_plan(
            self.target_minutes,
            self.draft_minutes,
            self.head_minutes,
            self.samples,
            read_prompts(self.exclude_prompts) if self.exclude_prompts else (),
            self.compiled,
            self.distil,
        )

    @property
    def command(self) -> str:
        """What makes the same family again."""
        words = ["stagetree", "train", "family", "--out", str(self.out)]
        for name in ("target_minutes", "draft_minutes", "head_minutes", "samples"):
            words += [f"--{name.replace('_', '-')}", f"{getattr(self, name):.12g}"]
        if self.exclude_prompts:
            words += ["--exclude-prompts", str(self.exclude_prompts)]
        words += ["--distil"] * self.distil + ["--compile"] * self.compiled
        return shlex.join(words)


def check_out(out: Path, *inputs: str) -> None:
    """Refuse to write over a file, or over a model that is read. Raises ConfigError."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: name a folder to write to.")
    if out.resolve() in {Path(name).resolve() for name in inputs}:
        raise ConfigError(f"{out} would be written over: name another folder with --out.")


def beside(out: Path) -> Path:
    """The work folder of what is written to `out`."""
    return out.with_name(f"{out.name}.work")


def own_texts(data: Sequence[Path] | None, exclude_prompts: Path | None) -> Texts:
    """The texts at `data`, or the installed sources, without those that quote a prompt."""
    prompts = read_prompts(exclude_prompts) if exclude_prompts else []
    return Texts(tuple(data or ()), tuple(prompts))


def train_target(options: TrainOptions, sizes: tuple[int, int, int], console: Console) -> None:
    """A tokenizer and a language model from scratch; vocabulary, width and layers."""
    check_out(options.out)
    recipe = options.recipe(Recipe(options.minutes).lengths)
    with resumable(options.folder, console), Watch(console) as watch:
        report = watch.reporter("target", recipe)
        progress, streams = make_target(
            options.texts, options.folder, options.out, sizes, recipe, report, watch.say
        )
    print_texts(streams.facts, console)
    _print_outcome(progress, "the text", options.out, console)


def train_draft(options: TrainOptions, drafter: DrafterOptions, console: Console) -> None:
    """A small language model that drafts for the target."""
    check_out(options.out, drafter.target, *drafter.others)
    recipe = options.recipe(LONG_LENGTHS)
    with resumable(options.folder, console), Watch(console) as watch:
        shop = Workshop(drafter.target, options.texts, options.folder, watch.say)
        check_drafters(drafter.others, shop.target)
        progress = shop.make_draft(
            options.out,
            (drafter.hidden_size, drafter.layers),
            drafter.distil,
            drafter.samples,
            recipe,
            watch.reporter("draft", recipe),
        )
        figures = shop.compare([str(options.out), *drafter.others], drafter.steps)
    if drafter.samples is not None:
        tell(console, f"Trained on {drafter.samples:,} tokens that the target wrote.")
    _print_drafters(shop, progress, figures, options.out, console)


def train_head(options: TrainOptions, drafter: DrafterOptions, console: Console) -> None:
    """A head that drafts from the target's hidden states."""
    check_out(options.out, drafter.target, *drafter.others)
    recipe = options.recipe(LONG_LENGTHS)
    with resumable(options.folder, console), Watch(console) as watch:
        shop = Workshop(drafter.target, options.texts, options.folder, watch.say)
        check_drafters(drafter.others, shop.target)
        report = watch.reporter("head", recipe)
        progress = shop.make_head(options.out, drafter.steps, drafter.draft_vocab, recipe, report)
        figures = shop.compare([str(options.out), *drafter.others], drafter.steps)
    _print_drafters(shop, progress, figures, options.out, console)


def train_family(options: FamilyOptions, console: Console) -> None:
    """The family that ships with the source, and its card."""
    check_out(options.out)
    work = options.work or beside(options.out)
    with resumable(work, console), Watch(console) as watch:
        family = Family(options.plan, work, watch.say, watch.reporter)
        facts = family.export(options.out, options.command)
    print_texts(facts.streams, console)
    tell(console, f"The family is in {options.out}, with its card.")


@contextmanager
def resumable(work: Path, console: Console) -> Iterator[None]:
    """Ctrl-C ends the command in a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        tell(
            console,
            f"Stopped. What is done is kept in {work}: the same command goes on from there.",
        )
        raise typer.Exit(_INTERRUPTED) from None


def print_texts(facts: StreamFacts, console: Console) -> None:
    """What was trained on."""
    line = f"{facts.train_files:,} texts of {facts.train_tokens:,} tokens to train on, "
    line += f"{facts.held_out_files:,} of {facts.held_out_tokens:,} held out"
    if "without" in facts.origin:
        line += f"; {facts.excluded_files:,} quoted a benchmark prompt and were left out"
    tell(console, line + ".")


def _print_drafters(
    shop: Workshop,
    progress: Progress,
    figures: Sequence[DrafterFigures],
    out: Path,
    console: Console,
) -> None:
    print_texts(shop.streams.facts, console)
    _print_outcome(progress, "the target", out, console)
    console.print(_drafters_table(figures))


def _print_outcome(progress: Progress, with_whom: str, out: Path, console: Console) -> None:
    tell(
        console,
        f"{progress.tokens:,} tokens in {progress.step:,} steps and {progress.seconds / 60:.1f} "
        f"minutes. Held out: loss {progress.held_out[-1][1]:.3f} nats a token, agreement with "
        f"{with_whom} {percentages(progress.agreement)}. Written to {out}.",
    )


def _drafters_table(figures: Sequence[DrafterFigures]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("drafter", overflow="fold")
    for heading in ("agreement", f"accepted of {CHAIN}", "ms a pass", "accepted per ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in figures:
        table.add_row(
            each.name,
            percentages(each.agreement),
            f"{each.num_accepted:.2f}",
            f"{each.milliseconds:.2f}",
            f"{each.accepted_per_millisecond:.3f}",
        )
    return table
