"""`stagetree ngram`: draft², an n-gram table that drafts for a draft."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from engine.training import Workshop
from server.commands.train import beside, check_out, own_texts, print_texts, resumable
from server.commands.watch import Watch, tell


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What is asked for on the command line; a `work` of None is a folder beside `out`."""

    out: Path
    work: Path | None
    draft: str
    data: Sequence[Path] | None
    exclude_prompts: Path | None
    tokens: int
    temperature: float
    max_megabytes: float

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.work or beside(self.out)


def build(options: BuildOptions, console: Console) -> None:
    """Count a table from the drafter's samples and one from texts; write the better one."""
    check_out(options.out, options.draft)
    texts = own_texts(options.data, options.exclude_prompts)
    with resumable(options.folder, console), Watch(console) as watch:
        shop = Workshop(options.draft, texts, options.folder, watch.say)
        max_bytes = round(options.max_megabytes * 1e6)
        facts = shop.make_table(options.out, options.tokens, options.temperature, max_bytes)
    print_texts(shop.streams.facts, console)
    kept = "samples" if facts.is_from_samples else "texts"
    tell(
        console,
        f"First choices that are the drafter's, on texts held out: {facts.by_samples:.1%} by the "
        f"table from {facts.num_sampled_tokens:,} sampled tokens, {facts.by_corpus:.1%} by the "
        f"one from texts. Kept: the one from {kept}, {facts.num_trigrams:,} trigrams in "
        f"{facts.num_bytes / 1e6:.1f} MB, in {options.out}.",
    )
