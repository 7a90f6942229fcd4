"""The table as Markdown, and where it and its JSON are kept."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.paper.contest import COMPILED, LOOP, ROWS
from benchmarks.paper.figures import Figures, Goal, goals

_TITLES = {
    LOOP: "token-by-token loop, eager",
    COMPILED: "Hugging Face `generate`, compiled, static cache",
    "plain": "plain",
    "chain": "chain speculation",
    "tree": "tree",
    "staged": "staged",
    "staged-head": "staged, the head for the draft",
    "auto": "staged, in sizes by measured costs",
}
_COLUMNS = (
    "",
    "tokens/s (quartiles)",
    "x plain (95 %)",
    "x loop (95 %)",
    "τ",
    "draft passes",
    "weight traffic",
    "of bandwidth",
    "ms a step",
    "texts parted",
)


def write(document: Figures, out: Path) -> tuple[Path, Path]:
    """Write both files, named after the hardware, into a folder: their paths."""
    out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", document["machine"]["hardware"].lower()).strip("-")
    as_json, as_text = out / f"{name}.json", out / f"{name}.md"
    found = [{**asdict(goal), "is_met": goal.is_met} for goal in goals(document)]
    content = json.dumps({**document, "goals": found}, indent=2, ensure_ascii=False)
    as_json.write_text(content + "\n", encoding="utf-8")
    as_text.write_text(markdown(document), encoding="utf-8")
    return as_text, as_json


def markdown(document: Figures) -> str:
    """All of it, for people."""
    machine = document["machine"]
    hardware = f"{machine['hardware']}, {document['bytes_per_second'] / 1e9:,.0f} GB/s measured"
    versions = ", ".join(f"{key} {machine[key]}" for key in document["versions"])
    parts = [
        f"# {machine['hardware']}",
        f"`{document['command']}`",
        f"{document['about']}.\n\n{hardware}; {document['dtype']}; {versions}.",
        *(_temperature(each, document) for each in document["temperatures"]),
        _legend(document),
        "## Goals, and the paper\n\n"
        + _table(("", "goal", "paper", "measured", ""), map(_goal, goals(document))),
        "## Passes\n\n" + _passes(document),
        "## Untrained shapes, for cost alone\n\n" + _shapes(document),
        "## What was trained\n\n" + _family(document),
    ]
    return "\n\n".join(parts) + "\n"


def _temperature(measured: Figures, document: Figures) -> str:
    top_k = f", top-k {measured['top_k']}" if measured["top_k"] else ""
    rows = {row["mode"]: row for row in measured["rows"]}
    lines = [_line(rows[name]) for name in ROWS if name in rows]
    left_out = [f"{_TITLES[name]} is left out: {why}" for name, why in document["left_out"].items()]
    return "\n\n".join(
        [f"## T = {measured['temperature']:g}{top_k}", _table(_COLUMNS, lines), *left_out]
    )


def _line(row: Figures) -> tuple[str, ...]:
    low, high = row["quartiles"]
    loop = "–"
    if row["ratio_to_loop"] is not None:
        loop = f"{row['ratio_to_loop']:.2f} ({row['loop_low']:.2f}–{row['loop_high']:.2f})"
    is_compared = row["temperature"] == 0 or row["mode"] not in (LOOP, COMPILED)
    parted = f"{row['num_diverged']} of {row['num_texts']}" if is_compared else "own noise"
    phases = row["phases_ms"]
    named = " + ".join(f"{name} {ms:.2f}" for name, ms in phases.items())
    return (
        _TITLES[row["mode"]],
        f"{row['tokens_per_second']:.1f} ({low:.1f}–{high:.1f})",
        f"{row['ratio_to_plain']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})",
        loop,
        f"{row['acceptance_length']:.2f}",
        f"{row['draft_passes_per_step']:.2f}",
        f"{row['traffic']:.2f}",
        f"{row['share_of_bandwidth']:.0%}",
        named if row["mode"] not in (LOOP, COMPILED) else f"{phases['target']:.2f}",
        parted,
    )


def _legend(document: Figures) -> str:
    settings, rounding = document["settings"], document["rounding"]
    first = document["temperatures"][0]["rows"][0]
    nodes, passes = settings["trees"]
    rows = [row for each in document["temperatures"] for row in each["rows"]]
    num_diverged, num_near = (
        sum(row[key] for row in rows) for key in ("num_diverged", "num_near_ties")
    )
    largest = max(row["largest_gap"] for row in rows)
    cut = ", ".join(f"{each['share_cut']:.0%}" for each in document["temperatures"])
    return (
        f"{settings['num_prompts']} prompts ({document['prompts']}), {settings['num_tokens']} "
        f"tokens each at most, cut where they repeat themselves ({cut} of the text); medians of "
        f"{first['num_repetitions']} interleaved repetitions. Trees of {nodes} nodes in {passes} "
        "draft passes, chains of 4 nodes. Tokens/s after the first token of each reply. Draft "
        "passes are those of a step. Weight traffic: bytes of weights read for an emitted token, "
        "in those that plain decoding reads. Of bandwidth: bytes of weights a second, in what "
        "memory was measured to deliver.\n\n"
        f"{num_diverged} texts part from plain's, {num_near} of them at a near tie (the largest "
        f"gap is {largest:.3f}; another width of pass changes a logit by "
        f"{rounding['median']:.4f} in the median, {rounding['worst']:.3f} at worst). Others "
        "draw noise of their own at T = 1, where their texts are not compared."
    )


def _goal(goal: Goal) -> tuple[str, ...]:
    sign = "≤" if goal.is_limit else "≥"
    aim = "" if goal.goal is None else f"{sign} {goal.goal:.3g}"
    verdict = {True: "met", False: "missed", None: ""}[goal.is_met]
    paper = "" if goal.paper is None else f"{goal.paper:.2f}"
    measured = "not measured" if goal.measured is None else f"{goal.measured:.3f}"
    return goal.name, aim, paper, measured, verdict


def _passes(document: Figures) -> str:
    networks = {**document["passes"], **{k: v["passes"] for k, v in document["shapes"].items()}}
    widths = list(next(iter(networks.values()))["median_ms"])
    columns = ("ms by rows", "passes", "weights, MB", "floor", *widths, "floor / 1 row")
    lines = [
        (
            name,
            each["form"],
            f"{each['weight_bytes'] / 1e6:,.1f}",
            f"{each['floor_ms']:.3f}",
            *(f"{each['median_ms'][w]:.3f} ±{each['spread_ms'][w]:.3f}" for w in widths),
            f"{each['floor_ms'] / each['median_ms']['1']:.0%}",
        )
        for name, each in networks.items()
    ]
    context = document["settings"]["context"]
    note = f"Behind a text of {context} tokens; ± half the distance between quartiles."
    return _table(columns, lines) + "\n\n" + note


def _shapes(document: Figures) -> str:
    columns = ("", "weights", "plain, tokens/s (range)", "of bandwidth")
    lines = []
    for name, each in document["shapes"].items():
        low, high = each["tokens_per_second_range"]
        speed = f"{each['tokens_per_second']:.1f} ({low:.1f}–{high:.1f})"
        lines.append(
            (
                name,
                f"{each['num_parameters'] / 1e6:,.1f}M",
                speed,
                f"{each['share_of_bandwidth']:.0%}",
            )
        )
    return _table(columns, lines)


def _family(document: Figures) -> str:
    columns = ("", "tokens", "minutes", "held-out loss", "agreement")
    lines = []
    for name, facts in document["family"].items():
        loss = f"{facts['held_out_loss']:.3f}" if "held_out_loss" in facts else ""
        agreement = ", ".join(f"{share:.0%}" for share in facts.get("agreement", ()))
        tokens = f"{facts['tokens']:,}" if "tokens" in facts else ""
        lines.append((name, tokens, f"{facts['minutes']:.2f}", loss, agreement))
    note = (
        "Agreement of first choices on files held out: of the target with the text, of the draft "
        "and, one to three tokens ahead, the head with the target, of the table with the draft."
    )
    return _table(columns, lines) + "\n\n" + note


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *lines))
