"""The figures as a table and as a JSON document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.peers.contest import Result

COLUMNS = ("tokens/s", "quartiles", "x plain", "95 %", "whole", "tokens as ours", "replies")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What figures must be quoted with."""

    command: str
    machine: Mapping[str, str | int]
    versions: Mapping[str, str]
    model: str
    num_prompts: int
    repetitions: int
    share_cut: float


def table(results: Sequence[Result]) -> Table:
    """One line for each row, a rule between peers."""
    made = Table(box=SIMPLE)
    for name in ("", ""):
        made.add_column(name, no_wrap=True)
    for name in COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    for result, following in zip(results, [*results[1:], None], strict=True):
        is_last = following is None or following.peer != result.peer
        made.add_row(result.peer, result.row, *_cells(result), end_section=is_last)
    return made


def _cells(result: Result) -> tuple[str, ...]:
    low, high = result.quartiles
    return (
        f"{result.tokens_per_second:.0f}",
        f"{low:.0f}–{high:.0f}",
        f"{result.ratio_to_plain:.2f}",
        f"{result.ratio_low:.2f}–{result.ratio_high:.2f}",
        f"{result.whole:.0f}",
        f"{result.num_agreeing} of {result.num_tokens}",
        f"{result.num_equal_replies} of {result.num_replies}",
    )


def legend(results: Sequence[Result], circumstances: Circumstances) -> str:
    """What the columns mean, how the rows are set up, and what they were measured with."""
    machine = circumstances.machine
    rows = [f"{each.peer} {each.row}: {each.about}" for each in results if each.about]
    versions = ", ".join(f"{name} {number}" for name, number in circumstances.versions.items())
    return "\n".join(
        [
            "tokens/s: after the first tokens, median over the repetitions, and its quartiles; x "
            "plain: in that of stagetree plain, with a bootstrap over prompts and repetitions; "
            "whole: tokens/s with the reading of the prompt; tokens as ours: before the first "
            "difference in each reply; replies: that are the same throughout.",
            *rows,
            f"{circumstances.model} at T = 0, batch 1; {circumstances.num_prompts} prompts, "
            f"{circumstances.repetitions} interleaved repetitions; "
            f"{circumstances.share_cut:.0%} of our text cut as repeating.",
            f"{machine['hardware']}, {machine['threads']} threads of {machine['cores']} cores, "
            f"Python {machine['python']}; {versions}",
            circumstances.command,
        ]
    )


def document(results: Sequence[Result], circumstances: Circumstances) -> dict[str, Any]:
    """Everything that the table and its legend say."""
    return {**asdict(circumstances), "results": [asdict(result) for result in results]}
