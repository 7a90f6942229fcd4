"""Step cost over target size: the embedded target grown to the cost of larger ones.

    python benchmarks/scale.py --prompts FILE.jsonl --json scale.json --plot scale.svg
    python benchmarks/scale.py --prompts FILE.jsonl --json scale.json --sizes 300 --trees 32/8 64/10

Speed-up is τ over step cost. A grown target writes the same text (`engine.benchmark.grown`), so
drafts are accepted as often as at 14M while a pass costs what it costs at the size named: what
changes along a column is the step cost alone. τ of trained models of these sizes would differ.

Every size is measured in a process of its own, which leaves no memory behind, and is then written
to the JSON file: run the same command again, and it goes on after the last size. A size needs disk
for its weights in float32 under the temporary folder (762M: 3 GB), memory for them in `--dtype` and
half as much again while kernels pack them, a minute or two for a compiler, and memory for the
cache, which is why the window is no longer than the longest prompt and its reply. Needs torch and
transformers alone, and matplotlib for a plot.
"""

import argparse
import json
import multiprocessing
import resource
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engine.api import Engine
from engine.benchmark import (
    SAMPLINGS,
    SIZES,
    Comparison,
    Mode,
    Workload,
    compare,
    grown,
    machine,
    measured_bandwidth,
    modes_of,
    read_prompts,
    resized,
)
from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig
from engine.request import SamplingParams
from engine.weights import bytes_read

TARGET, TARGET_SIZE = "embedded/target", 14
LABEL = f"acceptance of the {TARGET_SIZE}M target, cost of the size named"
PAPER = {0.0: 3.16, 1.0: 1.98}
"""The headline of Spector & Ré (2308.04623) by temperature, for a target of 762M."""

INK, FAINT = "#24292f", "#57606a"
COLORS = {
    "chain": "#8c959f",
    "ngram": "#7d9b4e",
    "tree": "#eda55d",
    "staged": "#4a9cb8",
    "auto": "#a1508f",
}
STYLES = ("-", "--", ":", "-.")
"""Of lines, by the sizes of trees in the order in which they were asked for."""

Tree = tuple[int, int]
"""Draft nodes in a tree, draft passes in a step."""


def main() -> None:
    """Measure the sizes that the JSON file lacks, then print and draw all that it has."""
    arguments = _parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    document = _resumed(arguments)
    measured = {entry["size"] for entry in document["sizes"]}
    for size in (size for size in arguments.sizes if size not in measured):
        document["sizes"].append(in_own_process(size, arguments))
        document["sizes"].sort(key=lambda entry: entry["size"])
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for entry in document["sizes"]:
        print_tables(entry)
    if arguments.plot is not None:
        draw(document, arguments.plot)


def _resumed(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the JSON file holds, or the beginning of it; refuses to mix two kinds of runs."""
    begun = {"label": LABEL, "machine": machine(), "settings": _settings(arguments), "sizes": []}
    if not arguments.json.exists():
        return begun
    document: dict[str, Any] = json.loads(arguments.json.read_text(encoding="utf-8"))
    for part in ("machine", "settings"):
        # As JSON has it, where a tuple is a list.
        now, then = json.loads(json.dumps(begun[part])), document[part]
        if differing := [key for key in now | then if now.get(key) != then.get(key)]:
            sys.exit(
                f"{arguments.json} was measured with another {', '.join(differing)}: "
                "ask for the same, or name another file."
            )
    return document


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all sizes have in common."""
    names = (
        "num_prompts",
        "tokens",
        "repetitions",
        "trees",
        "draft",
        "table",
        "guesses",
        "dtype",
        "compile",
    )
    return {"prompts": arguments.prompts.name, **{n: getattr(arguments, n) for n in names}}


def in_own_process(size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """`measure`, and then all of its memory is free again."""
    _tell(f"{size}M: loading")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        entry = pool.submit(measure, size, arguments).result()
    _tell()
    return entry


def measure(size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every mode at one size in million weights: one entry of the JSON file."""
    shape = SIZES.get(size)
    prompts = read_prompts(arguments.prompts, arguments.num_prompts, TARGET)
    with grown(TARGET, shape) as folder:
        config = _config(folder, prompts, arguments)
        engine = Engine.load(config)
        info = engine.info
        modes = modes_of_trees(config, arguments.trees)
        before = measured_bandwidth(info.device)
        temperatures = []
        for sampling in SAMPLINGS:
            workload = Workload(prompts, arguments.tokens, sampling, info.eos_token_ids)
            tell = partial(_tell, f"{size}M, T = {sampling.temperature:g}:")
            comparison = compare(engine, modes, workload, arguments.repetitions, tell)
            temperatures.append(_summary(sampling, comparison))
        bandwidth = max(before, measured_bandwidth(info.device))
        weight_bytes = bytes_read(engine.scorers["target"].network)
    return {
        "size": size,
        "shape": asdict(shape) if shape else None,
        "num_parameters": info.num_parameters,
        "weight_bytes": weight_bytes,
        "bytes_per_second": bandwidth,
        "floor_ms": 1e3 * weight_bytes / bandwidth,
        "peak_memory_bytes": _peak_memory(),
        "temperatures": temperatures,
    }


def _config(
    model: str, prompts: Sequence[tuple[int, ...]], arguments: argparse.Namespace
) -> EngineConfig:
    ngram = NgramStageConfig(table=arguments.table, budget=arguments.guesses)
    return EngineConfig(
        model,
        stages=(ModelStageConfig(arguments.draft), ngram),
        dtype=arguments.dtype,
        max_model_len=max(map(len, prompts)) + arguments.tokens,
        threads=arguments.threads,
        compile=arguments.compile,
    )


def modes_of_trees(config: EngineConfig, trees: Iterable[Tree]) -> list[Mode]:
    """Plain, chain and n-grams once; tree, staged and `auto` for every size of trees."""
    modes: dict[str, Mode] = {}
    for budget, passes in trees:
        for mode in modes_of(resized(config, budget, passes).stages):
            name = mode.name.partition("-")[0]
            if name in {"tree", "staged", "auto"}:
                name = f"{name} {budget}/{passes}"
            modes.setdefault(name, replace(mode, name=name))
    return list(modes.values())


def _summary(sampling: SamplingParams, comparison: Comparison) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "num_tokens": comparison.num_tokens,
        "share_cut": comparison.share_cut,
        "plain_step_ms": 1e3 / comparison.results[0].tokens_per_second,
        "results": [asdict(result) for result in comparison.results],
    }


def _peak_memory() -> int:
    """Bytes that this process held at most; Linux counts them by 1024."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _tell(*words: str) -> None:
    """Where the measurement is, in one line that is written over."""
    if sys.stderr.isatty():
        print("\r\x1b[K" + " ".join(words), end="", file=sys.stderr, flush=True)


def print_tables(entry: dict[str, Any]) -> None:
    """One size: what a plain pass costs and must cost, then a line for each mode."""
    shape = entry["shape"]
    grown_to = (
        f", {shape['hidden_size']} wide, {shape['num_hidden_layers']} layers" if shape else ""
    )
    print(
        f"\n{entry['size']}M: {entry['num_parameters'] / 1e6:.1f}M weights{grown_to}; floor "
        f"{entry['floor_ms']:.2f} ms at {entry['bytes_per_second'] / 1e9:.1f} GB/s; "
        f"peak memory {entry['peak_memory_bytes'] / 1e9:.1f} GB"
    )
    for each in entry["temperatures"]:
        print(
            f"T = {each['temperature']:g}, plain step {each['plain_step_ms']:.2f} ms\n"
            f"  {'':14} tokens/s    to plain (95 %)      τ   step cost   draft passes"
        )
        for result in each["results"]:
            interval = f"({result['ratio_low']:.2f}–{result['ratio_high']:.2f})"
            print(
                f"  {result['mode']:14} {result['tokens_per_second']:8.1f}"
                f"    {result['ratio_to_plain']:4.2f} {interval:13}"
                f" {result['acceptance_length']:5.2f} {result['step_cost']:11.2f}"
                f" {result['draft_passes_per_step']:14.2f}"
            )


def draw(document: dict[str, Any], picture: Path) -> None:
    """Speed-up on the left and step cost on the right over size; a row for each temperature."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("plotting needs matplotlib: pip install -e '.[bench]'")
    # Letters as text make a small file; a fixed salt and no date make the same bytes every time.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "stagetree"})
    matplotlib.rcParams.update({"font.size": 10, "text.color": INK, "axes.titlesize": 10.5})
    figure = Figure(figsize=(10, 0.6 + 3.6 * len(SAMPLINGS)), layout="constrained")
    rows = figure.subplots(len(SAMPLINGS), 2, sharex=True)
    for (temperature, headline), (speed, cost) in zip(PAPER.items(), rows, strict=True):
        speed.axhline(headline, color=FAINT, linestyle=":", linewidth=1.2)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        speed.annotate("the paper's", (1, headline), (0, -4), ha="right", va="top", **place)
        _draw_panel(speed, document, temperature, "ratio_to_plain")
        _draw_panel(cost, document, temperature, "step_cost")
        speed.set_title(f"T = {temperature:g}: speed-up over plain, 95 % interval", loc="left")
        cost.set_title(f"T = {temperature:g}: step cost in plain steps", loc="left")
    handles, names = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False)
    figure.supxlabel(_caption(document), fontsize=8.5, color=FAINT)
    metadata = {"Date": None} if picture.suffix == ".svg" else None
    figure.savefig(picture, facecolor="white", dpi=150, metadata=metadata)


def _draw_panel(axes: Any, document: dict[str, Any], temperature: float, key: str) -> None:
    entries = document["sizes"]
    sizes = [entry["num_parameters"] / 1e6 for entry in entries]
    by_size = [_results(entry, temperature) for entry in entries]
    trees = [f"{budget}/{passes}" for budget, passes in document["settings"]["trees"]]
    for name in list(by_size[0])[1:]:
        family, _, tree = name.partition(" ")
        style = STYLES[trees.index(tree) % len(STYLES)] if tree else "-"
        color = COLORS[family]
        values, low, high = (
            [each[name][column] for each in by_size] for column in (key, "ratio_low", "ratio_high")
        )
        axes.plot(sizes, values, style, color=color, label=name, marker="o", markersize=3.5)
        if key == "ratio_to_plain":
            axes.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{entry['size']}M" for entry in entries])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)


def _results(entry: dict[str, Any], temperature: float) -> dict[str, Any]:
    """The results of one size at one temperature, by mode, plain first."""
    (found,) = (each for each in entry["temperatures"] if each["temperature"] == temperature)
    return {result["mode"]: result for result in found["results"]}


def _caption(document: dict[str, Any]) -> str:
    machine, settings = document["machine"], document["settings"]
    return (
        f"{document['label']}; {settings['draft']} in {settings['dtype']}\n"
        f"{machine['hardware']}, {machine['threads']} threads, torch {machine['torch']}; "
        f"{settings['num_prompts']} prompts, {settings['tokens']} tokens each, "
        f"median of {settings['repetitions']} repetitions; trees as nodes/passes"
    )


def _tree(text: str) -> Tree:
    budget, _, passes = text.partition("/")
    return int(budget), int(passes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    known = (TARGET_SIZE, *SIZES)
    add("--prompts", type=Path, required=True, help='a file of {"prompt": "..."}, one a line')
    add("--json", type=Path, required=True, help="the figures; sizes that are in it are kept")
    add("--plot", type=Path, help="also draw them here (svg, png, pdf)")
    add("--sizes", type=int, nargs="+", choices=known, default=known, help="million weights")
    add("--num-prompts", type=int, default=12)
    add("--tokens", type=int, default=64)
    add("--repetitions", type=int, default=5)
    add("--trees", type=_tree, nargs="+", default=[(16, 4), (32, 8)], metavar="NODES/PASSES")
    add("--draft", default="embedded/draft")
    add("--table", default="embedded/draft2")
    add("--guesses", type=int, default=8, help="nodes that the n-grams guess before each pass")
    add("--dtype", default="float32", choices=("float32", "bfloat16", "auto"))
    add("--compile", default="wait", choices=("wait", "cached", "never"))
    add("--threads", type=int, default=0, help="0 leaves the number to torch")
    return parser


if __name__ == "__main__":
    main()
