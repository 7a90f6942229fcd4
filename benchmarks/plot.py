"""A picture of `stagetree bench`: tokens a second and τ, by mode and temperature.

    stagetree bench --json bench.json
    python benchmarks/plot.py bench.json bench.svg

The ending chooses the format (svg, png, pdf). The same figures make the same SVG, byte for byte.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:
    sys.exit("plotting needs matplotlib: pip install -e '.[bench]'")

COLORS = ("#4a9cb8", "#eda55d")
INK, FAINT = "#24292f", "#d0d7de"
BAR, ROW, MARGIN, WIDTH = 0.38, 0.46, 1.9, 10.0
"""Bars in rows; a row, the room for the rest, and the width of the picture in inches."""


@dataclass(frozen=True, slots=True)
class Document:
    """What the bench wrote, with the doubled entries of `staged` left out."""

    content: dict[str, Any]

    @property
    def modes(self) -> list[str]:
        """In the order of the table."""
        return list(self.content["modes"])

    @property
    def temperatures(self) -> list[dict[str, Any]]:
        """The settings of each temperature."""
        return list(self.content["temperatures"])

    def column(self, temperature: float, key: str) -> list[float]:
        """One figure of every mode."""
        found = {
            result["mode"]: result[key]
            for result in self.content["results"]
            if result["temperature"] == temperature
        }
        return [found[mode] for mode in self.modes]


def main() -> None:
    """Draw one file from another."""
    arguments = _parser().parse_args()
    # Letters as text make a small file; a fixed salt and no date make the same bytes every time.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "stagetree"})
    matplotlib.rcParams.update({"font.size": 10, "text.color": INK})
    figure = draw(_read(arguments.bench))
    is_svg = arguments.picture.suffix == ".svg"
    metadata = {"Date": None} if is_svg else None
    figure.savefig(arguments.picture, facecolor="white", dpi=150, metadata=metadata)


def draw(document: Document) -> Figure:
    """Speed on the left, τ on the right; a row for each mode, a bar for each temperature."""
    height = MARGIN + ROW * len(document.modes)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    speed, length = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for index, _ in enumerate(document.temperatures):
        _draw_speed(speed, document, index)
        _draw_length(length, document, index)
    _style(speed, "tokens/s (× plain, with its 95 % interval)", 1.32)
    _style(length, "τ: tokens emitted by a step", 1.15)
    _name_modes(speed, document)
    figure.legend(
        *speed.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    figure.supxlabel(_caption(document.content), fontsize=8.5, color="#57606a")
    return figure


def _draw_speed(axes: Axes, document: Document, index: int) -> None:
    setting = document.temperatures[index]
    temperature = setting["temperature"]
    speeds = document.column(temperature, "tokens_per_second")
    ratios = document.column(temperature, "ratio_to_plain")
    bounds = [document.column(temperature, key) for key in ("ratio_low", "ratio_high")]
    rows = _rows(document, index)
    axes.barh(rows, speeds, BAR, color=COLORS[index], label=_label(setting))
    ends = []
    for row, speed, ratio, low, high in zip(rows, speeds, ratios, *bounds, strict=True):
        whisker = (speed * low / ratio, speed * high / ratio)
        if low < high:
            axes.plot(whisker, (row, row), color=INK, linewidth=1.2, solid_capstyle="butt")
        ends.append(max(speed, whisker[1]))
    axes.axvline(speeds[0], color=COLORS[index], linewidth=1, linestyle=":", zorder=0)
    texts = [f"{speed:.0f} ({ratio:.2f}×)" for speed, ratio in zip(speeds, ratios, strict=True)]
    _write(axes, ends, rows, texts)


def _draw_length(axes: Axes, document: Document, index: int) -> None:
    temperature = document.temperatures[index]["temperature"]
    lengths = document.column(temperature, "acceptance_length")
    rows = _rows(document, index)
    axes.barh(rows, lengths, BAR, color=COLORS[index])
    _write(axes, lengths, rows, [f"{length:.2f}" for length in lengths])


def _rows(document: Document, index: int) -> list[float]:
    """Where a temperature's bars stand, the pair of a mode around its whole number."""
    offset = BAR * (index - (len(document.temperatures) - 1) / 2)
    return [row + offset for row in range(len(document.modes))]


def _write(axes: Axes, ends: Sequence[float], rows: Sequence[float], texts: Sequence[str]) -> None:
    # On white, since the dotted line of plain would cross them.
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for end, row, text in zip(ends, rows, texts, strict=True):
        label = axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center")
        label.set(fontsize=8.5, bbox=white)


def _name_modes(axes: Axes, document: Document) -> None:
    """The first mode on top; the configured one in bold."""
    axes.set_yticks(range(len(document.modes)), document.modes)
    axes.invert_yaxis()
    for label in axes.get_yticklabels():
        if label.get_text() == document.content["configured"]:
            label.set_fontweight("bold")


def _style(axes: Axes, title: str, room: float) -> None:
    """`room` is the width of the panel in that of its longest bar, for the figures behind it."""
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.margins(y=0.02)
    axes.set_xlim(0, axes.get_xlim()[1] * room)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(length=0, colors=INK)
    axes.xaxis.set_visible(False)


def _label(setting: dict[str, Any]) -> str:
    top_k = f", top-k {setting['top_k']}" if setting["top_k"] else ""
    return f"T = {setting['temperature']:g}{top_k} ({setting['share_cut']:.0%} cut as repeating)"


def _caption(content: dict[str, Any]) -> str:
    machine, engine = content["machine"], content["engine"]
    where = f"{machine['hardware']}, {machine['threads']} threads, torch {machine['torch']}"
    workload = (
        f"{engine['model']} in {engine['dtype']}, {content['num_prompts']} prompts, "
        f"{content['num_tokens']} tokens each, median of {content['repetitions']} repetitions"
    )
    bold = "; bold: the mode of the configuration" if content["configured"] else ""
    return f"{where}\n{workload}{bold}"


def _read(path: Path) -> Document:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        document = Document(content)
        _ = [document.column(each["temperature"], "mode") for each in document.temperatures]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path}: {error!r}. It must be what `stagetree bench --json` wrote.")
    return document


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", type=Path, help="what `stagetree bench --json` wrote")
    parser.add_argument("picture", type=Path, help="the file to draw")
    return parser


if __name__ == "__main__":
    main()
