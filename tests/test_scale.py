"""The benchmarks over size and acceptance: they measure, go on where they stopped, and draw."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from engine.config import EngineConfig, ModelStageConfig, NgramStageConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FEW = ("--num-prompts", "1", "--tokens", "6", "--repetitions", "1", "--threads", "1")


def run(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / script, *options]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", BENCHMARKS / "scale.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "def add(a, b):\n    return"}) + "\n")
    return path


@pytest.mark.slow
def test_a_grown_target_is_measured_and_the_next_run_keeps_what_is_there(
    scale: ModuleType, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when drafts are accepted otherwise at another size, or a size is measured twice."""
    path = tmp_path / "scale.json"
    asked = ("--prompts", prompts, "--json", path, "--trees", "4/2", "--compile", "never", *FEW)
    done = run("scale.py", *asked, "--sizes", 14, 30)
    assert done.returncode == 0, done.stderr
    assert "30M: 31.5M weights, 512 wide, 8 layers" in done.stdout
    content = path.read_text()
    embedded, grown = json.loads(content)["sizes"]
    assert grown["num_parameters"] == 31_465_984
    for before, after in zip(embedded["temperatures"], grown["temperatures"], strict=True):
        lengths = [[each["acceptance_length"] for each in t["results"]] for t in (before, after)]
        assert lengths[0][:-1] == lengths[1][:-1]  # `auto`, the last one, goes by the clock
    modes = [each["mode"] for each in grown["temperatures"][1]["results"]]
    assert modes == ["plain", "chain", "tree 4/2", "ngram", "staged 4/2", "auto 4/2"]

    monkeypatch.setattr(scale, "in_own_process", None)
    command = ["scale.py", *map(str, asked), "--sizes", "30"]
    monkeypatch.setattr(sys, "argv", command)
    scale.main()
    monkeypatch.setattr(sys, "argv", [*command, "--guesses", "3"])
    with pytest.raises(SystemExit, match="was measured with another guesses"):
        scale.main()
    assert path.read_text() == content


def test_trees_of_several_sizes_stand_beside_one_plain_and_one_chain(scale: ModuleType) -> None:
    config = EngineConfig("t", stages=(ModelStageConfig("d"), NgramStageConfig()))
    modes = {mode.name: mode for mode in scale.modes_of_trees(config, [(8, 2), (32, 6)])}
    assert list(modes)[:4] == ["plain", "chain", "tree 8/2", "ngram"]
    assert list(modes)[4:] == ["staged 8/2", "auto 8/2", "tree 32/6", "staged 32/6", "auto 32/6"]
    drafter = modes["staged 32/6"].stages[0]
    assert (drafter.budget, drafter.passes) == (32, 6)


def entry(size: int) -> dict[str, Any]:
    modes = {"plain": 1.0, "chain": 1.2, "tree 8/2": 1.5, "staged 8/2": 1.8, "auto 8/2": 1.7}
    results = [
        {"mode": mode, "ratio_to_plain": ratio, "ratio_low": ratio, "ratio_high": ratio}
        | {"step_cost": 2.0, "tokens_per_second": 9.0, "acceptance_length": 3.25}
        | {"draft_passes_per_step": 1.0}
        for mode, ratio in modes.items()
    ]
    return {
        "size": size,
        "shape": None,
        "num_parameters": size * 10**6,
        "floor_ms": 4.0,
        "bytes_per_second": 2e10,
        "peak_memory_bytes": 10**9,
        "temperatures": [
            {"temperature": temperature, "plain_step_ms": 5.0, "results": results}
            for temperature in (0.0, 1.0)
        ],
    }


def test_the_picture_names_sizes_modes_and_whose_acceptance_it_is(
    scale: ModuleType, tmp_path: Path
) -> None:
    settings = {"draft": "d", "dtype": "float32", "num_prompts": 2, "tokens": 9}
    document = {
        "label": scale.LABEL,
        "machine": {"hardware": "Quantum 9000", "threads": 3, "torch": "2.99"},
        "settings": {**settings, "repetitions": 5, "trees": [[8, 2]]},
        "sizes": [entry(14), entry(300)],
    }
    for name in ("a.svg", "b.svg"):
        scale.draw(document, tmp_path / name)
    texts = ElementTree.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")
    words = ["".join(text.itertext()).strip() for text in texts]
    assert {"14M", "300M", "chain", "tree 8/2", "staged 8/2", "auto 8/2"} <= set(words)
    assert words.count("the paper's") == 2
    assert any("acceptance of the 14M target, cost of the size named" in word for word in words)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_table_has_every_mode(scale: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    scale.print_tables(entry(300))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == ("300M: 300.0M weights; floor 4.00 ms at 20.0 GB/s; peak memory 1.0 GB")
    assert sum("staged 8/2" in line and "1.80 (1.80–1.80)" in line for line in lines) == 2


@pytest.mark.slow
def test_replays_are_measured_at_every_acceptance_and_length(prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "replay.json"
    asked = ("--acceptance", "0.5", "1.0", "--lengths", "2", "--json", path, *FEW)
    done = run("replay.py", "--prompts", prompts, *asked, "--tokens", "12", "--compile", "never")
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    half, whole = document["replays"]
    assert (half["acceptance"], whole["acceptance"]) == (0.5, 1.0)
    assert whole["result"]["acceptance_length"] > 2.5
    assert whole["predicted_ratio"] == pytest.approx(3 / whole["result"]["step_cost"])
    assert len(done.stdout.splitlines()) == 4
