"""The tables that `stagetree bench` prints: how fast each mode is, and what its step is made of."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.box import SIMPLE
from rich.table import Table

from engine import ModelInfo, SamplingParams
from engine.benchmark import PLAIN, Comparison, Mode, Result, machine

_CONFIGURED = "*"
ALL = "all"


def tables(
    comparison: Comparison,
    sampling: SamplingParams,
    configured: str | None,
    modes: Sequence[Mode] = (),
) -> list[Table]:
    """Two tables of one temperature, the same modes in both; `configured` is marked.

    A third has the categories, if there are some; and two more have the sizes, where there are
    several, with what they bring in each category.
    """
    how = f"T = {sampling.temperature:g}" + (f", top-k {sampling.top_k}" if sampling.top_k else "")
    how += f", top-p {sampling.top_p:g}" if sampling.top_p < 1 else ""
    cut = f"{comparison.num_tokens} tokens; {comparison.share_cut:.0%} cut as repeating"
    names = [
        f"{result.mode} {_CONFIGURED}" if result.mode == configured else result.mode
        for result in comparison.results
    ]
    return [
        _speed_table(f"{how} ({cut})", names, comparison.results),
        _step_table(f"{how}: one step", names, comparison.results),
        *category_tables(comparison, f"{how}: by category", {m.name for m in modes if m.size}),
        *_size_tables(comparison, how, [mode for mode in modes if mode.size]),
    ]


def category_tables(
    comparison: Comparison, title: str, left_out: Collection[str] = ()
) -> list[Table]:
    """A table of every mode in every category, and in its worst one; none without categories.

    Those that are `left_out` have tables of their own.
    """
    if not comparison.categories:
        return []
    table = _table(title, *("mode", "tokens/s", "x plain", "95 %", "τ"), first="category")
    table.columns[1].justify = "left"
    for name, results in comparison.categories.items():
        for result in results:
            if result.mode not in left_out:
                table.add_row(name if result is results[0] else "", *_in_category(result))
        table.add_section()
    for mode, (name, result) in sorted(comparison.worst().items()):
        if mode != PLAIN and mode not in left_out:
            table.add_row(f"worst: {name}", *_in_category(result))
    return [table]


def _in_category(result: Result) -> tuple[str, ...]:
    return (
        result.mode,
        f"{result.tokens_per_second:.0f}",
        f"{result.ratio_to_plain:.2f}",
        f"{result.ratio_low:.2f}–{result.ratio_high:.2f}",
        f"{result.acceptance_length:.2f}",
    )


def _size_tables(comparison: Comparison, how: str, sized: Sequence[Mode]) -> list[Table]:
    """τ by draft nodes, what passes take by their rows, and the best that follows from both."""
    if not sized:
        return []
    sizes = sorted({mode.size for mode in sized})
    alone, *wider = [ms for _, ms in sorted(comparison.pass_ms.items())]
    curves = _table(f"{how}: τ by draft nodes", "mode", *map(str, sizes), first="category")
    curves.columns[1].justify = "left"
    curves.add_row(f"{alone:.2f} ms", "t(1 + n) / t(1)", *(f"{ms / alone:.2f}" for ms in wider))
    curves.add_section()
    for name, results in {ALL: comparison.results, **comparison.categories}.items():
        lengths = {result.mode: result.acceptance_length for result in results}
        for way in dict.fromkeys(mode.way for mode in sized):
            figures = [f"{lengths[f'{way}/{size}']:.2f}" for size in sizes]
            curves.add_row(name, way, *figures)
    headings = ("best by passes alone", "x plain", "95 %", "auto's share of it", "95 %")
    best = _table(f"{how}: the best that these sizes allow", *headings, first="category")
    for name, found in comparison.best.items():
        best.add_row(
            name or ALL,
            found.mode,
            f"{found.ratio:.2f}",
            f"{found.ratio_low:.2f}–{found.ratio_high:.2f}",
            f"{found.share:.3f}",
            f"{found.share_low:.3f}–{found.share_high:.3f}",
        )
    return [curves, best] if comparison.best else [curves]


def legend(info: ModelInfo, num_prompts: int, num_repetitions: int) -> str:
    """What the columns mean, and what the figures were taken with."""
    where = machine()
    return (
        f"{info.model} in {info.dtype} on {where['hardware']}, {where['threads']} threads; "
        f"{num_prompts} prompts, median of {num_repetitions} interleaved repetitions.\n"
        "x plain: speed in that of plain decoding; 95 %: its interval (bootstrap over prompts and "
        "repetitions); τ: tokens emitted by a step; step cost: its time in plain steps; nodes: of "
        "the tree, with its root; draft passes: of models and heads, in a step; TTFT: time to the "
        f"first token.\n{_CONFIGURED} the mode that the configuration uses, `staged` in the JSON"
    )


def fastest_plain(
    speeds: Mapping[str, Sequence[float]], samplings: Sequence[SamplingParams]
) -> str:
    """The fastest plain decoding of any precision that was measured, at each temperature."""
    told = []
    for at, sampling in enumerate(samplings):
        dtype = max(speeds, key=lambda name: speeds[name][at])
        all_of_them = ", ".join(f"{name} {each[at]:.0f}" for name, each in speeds.items())
        told.append(
            f"fastest plain at T = {sampling.temperature:g}: {dtype} (tokens/s: {all_of_them})"
        )
    return "\n".join(told)


def _speed_table(title: str, names: Sequence[str], results: Sequence[Result]) -> Table:
    table = _table(
        title,
        *("tokens/s", "x plain", "95 %", "τ", "step\ncost", "nodes", "draft\npasses", "TTFT\nms"),
    )
    for name, result in zip(names, results, strict=True):
        table.add_row(
            name,
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


def _step_table(title: str, names: Sequence[str], results: Sequence[Result]) -> Table:
    """Accepted tokens by stage, and milliseconds by phase; a column for whatever took part."""
    stages = _union(result.stages for result in results)
    phases = ["target", *stages, "other"]
    table = _table(
        title,
        *(f"{stage}\naccepted" for stage in stages),
        *(f"{phase}\nms" for phase in phases),
    )
    for name, result in zip(names, results, strict=True):
        accepted = (result.stages.get(stage, {}).get("accepted_per_step") for stage in stages)
        times = (result.phases_ms.get(phase) for phase in phases)
        table.add_row(name, *map(_figure, accepted), *map(_figure, times))
    return table


def _table(title: str, *headings: str, first: str = "mode") -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True, vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    """Every name once, in the order of their first appearance."""
    return list(dict.fromkeys(name for each in names for name in each))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
