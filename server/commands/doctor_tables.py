"""The tables that `stagetree doctor` prints: what passes cost, as bars, and how fast modes are."""

from collections.abc import Sequence

from rich.bar import Bar
from rich.box import SIMPLE
from rich.table import Table

from engine.benchmark import Examination, PassCosts

LEGEND = (
    "floor: the time to read the weights of a pass from memory once; x 1 row: in passes over one "
    "row; predicted: by the economy's forecasts, step by step; τ: tokens emitted by a step; step "
    "cost: its time in plain steps; nodes: of the tree, with its root; draft passes: of models "
    "and heads, in a step.\n"
)

_BAR_WIDTH = 48


def pass_tables(passes: Sequence[PassCosts]) -> list[Table]:
    """Milliseconds by rows for every network; all bars are of one scale."""
    longest = max(max(each.milliseconds.values()) for each in passes)
    return [_pass_table(each, longest) for each in passes]


def _pass_table(passes: PassCosts, longest: float) -> Table:
    table = _table(
        f"{passes.name}, {passes.form}: {passes.weight_bytes / 1e6:.1f} MB of weights, "
        f"floor {passes.floor_ms:.2f} ms",
        *("rows", "ms", "x floor", "x 1 row"),
    )
    table.add_column("", width=_BAR_WIDTH)
    for rows, milliseconds in passes.milliseconds.items():
        table.add_row(
            str(rows),
            f"{milliseconds:.2f}",
            f"{milliseconds / passes.floor_ms:.2f}",
            f"{passes.in_single_passes(rows):.2f}",
            Bar(longest, 0, milliseconds, color="cyan"),
        )
    return table


def mode_table(examination: Examination) -> Table:
    """Predicted and measured speed of every mode, and what its steps were made of."""
    table = _table(
        "tokens per second",
        *("mode", "predicted", "measured", "x plain", "95 %", "τ"),
        *("step\ncost", "nodes", "draft\npasses"),
    )
    table.columns[0].justify = "left"
    for result in examination.comparison.results:
        table.add_row(
            result.mode,
            f"{result.predicted_tokens_per_second:.0f}",
            f"{result.tokens_per_second:.0f}",
            f"{result.ratio_to_plain:.2f}",
            f"{result.ratio_low:.2f}–{result.ratio_high:.2f}",
            f"{result.acceptance_length:.2f}",
            f"{result.step_cost:.2f}",
            f"{result.nodes_per_step:.1f}",
            f"{result.draft_passes_per_step:.2f}",
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table
