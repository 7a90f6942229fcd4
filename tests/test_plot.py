"""The picture of a benchmark: everything that was measured is in it, and it is the same again."""

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

PLOT = Path(__file__).parent.parent / "benchmarks" / "plot.py"


def result(mode: str, temperature: float, ratio: float, length: float) -> dict[str, Any]:
    return {
        "mode": mode,
        "temperature": temperature,
        "tokens_per_second": 200 * ratio,
        "ratio_to_plain": ratio,
        "ratio_low": ratio if mode == "plain" else 0.9 * ratio,
        "ratio_high": ratio if mode == "plain" else 1.1 * ratio,
        "acceptance_length": length,
    }


BENCH: dict[str, Any] = {
    "machine": {"hardware": "Quantum 9000", "threads": 3, "torch": "2.99"},
    "engine": {"model": "some/target", "dtype": "float32"},
    "num_prompts": 12,
    "num_tokens": 64,
    "repetitions": 5,
    "configured": "staged-head",
    "modes": {"plain": {}, "staged-head": {}, "auto": {}},
    "temperatures": [
        {"temperature": 0.0, "top_k": 0, "share_cut": 0.33},
        {"temperature": 1.0, "top_k": 50, "share_cut": 0.0},
    ],
    "results": [
        result(mode, temperature, ratio + temperature, length)
        for temperature in (0.0, 1.0)
        for mode, ratio, length in (
            *(("plain", 1, 1.0), ("staged-head", 1.5, 3.14), ("auto", 1.25, 2.72)),
            ("staged", 1.5, 3.14),
        )
    ],
}


def draw(monkeypatch: pytest.MonkeyPatch, bench: Path, picture: Path) -> Path:
    monkeypatch.setattr(sys, "argv", ["plot.py", str(bench), str(picture)])
    runpy.run_path(str(PLOT), run_name="__main__")
    return picture


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH))
    return path


def words(picture: Path) -> list[str]:
    texts = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()).strip() for text in texts]


def test_every_mode_and_figure_is_in_the_picture(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a mode, a temperature or the machine is left out, or `staged` is drawn twice."""
    found = words(draw(monkeypatch, bench, tmp_path / "bench.svg"))
    for mode in ("plain", "staged-head", "auto"):
        assert found.count(mode) == 1
    assert found.count("staged") == 0
    assert {"300 (1.50×)", "500 (2.50×)", "200 (1.00×)"} <= set(found)
    assert found.count("3.14") == found.count("2.72") == 2
    assert {"T = 0 (33% cut as repeating)", "T = 1, top-k 50 (0% cut as repeating)"} <= set(found)
    caption = " ".join(found)
    assert "Quantum 9000, 3 threads, torch 2.99" in caption
    assert "some/target in float32, 12 prompts, 64 tokens each" in caption


def test_the_same_figures_make_the_same_small_file(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a date or a random id gets into the picture, which would change with every run."""
    once, again = (
        draw(monkeypatch, bench, tmp_path / name).read_bytes() for name in ("a.svg",) * 2
    )
    assert once == again
    assert len(once) < 100_000


@pytest.mark.parametrize(("bound", "value"), [("ratio_low", 0.2), ("ratio_high", 5.0)])
def test_both_ends_of_the_interval_are_drawn(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    before = draw(monkeypatch, bench, tmp_path / "a.svg").read_text()
    wide = copy.deepcopy(BENCH)
    wide["results"][1][bound] = value
    bench.write_text(json.dumps(wide))
    assert draw(monkeypatch, bench, tmp_path / "b.svg").read_text() != before


def test_other_files_are_refused_with_the_remedy(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ("not json", "[]", '{"results": []}'):
        bench.write_text(content)
        with pytest.raises(SystemExit, match="what `stagetree bench --json` wrote"):
            draw(monkeypatch, bench, tmp_path / "bench.svg")


def test_without_matplotlib_it_says_how_to_get_it(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install -e '\.\[bench\]'"):
        draw(monkeypatch, bench, tmp_path / "bench.svg")
