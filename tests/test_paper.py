"""The paper's table: rows are counted and compared rightly, and what is there is not done again."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from benchmarks.paper.contest import COMPILED, LOOP, ROWS, Contest, Row
from benchmarks.paper.engines import Loaded, measure_shape
from benchmarks.paper.family import Family, Member
from benchmarks.paper.figures import Scales, figures_of, goals
from benchmarks.paper.loop import run_peer, token_loop
from benchmarks.paper.plan import FULL, SMOKE
from benchmarks.paper.store import Measured, Runs, claim, load_passages, save_passages
from benchmarks.peers import hugging_face
from engine.api import Engine
from engine.benchmark import (
    SAMPLINGS,
    WIDTHS,
    Divergence,
    Passage,
    Run,
    Workload,
    passages_of,
)
from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig, NgramStageConfig
from engine.errors import ConfigError
from engine.request import GenerateRequest
from engine.stats import StageStats, StepStats
from engine.training.shapes import llama
from tests.checkpoints import (
    make_head_weights,
    make_network,
    save_checkpoint,
    save_head_checkpoint,
)

ROOT = Path(__file__).parent.parent
PROMPTS = [(5, 9, 33), (7, 8, 9, 10, 11)]
BYTES = {"target": 1000, "draft": 100, "head": 200}
SCALES = Scales(BYTES, bytes_per_second=1e6, worst_rounding=0.1)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def passages(target: Path) -> list[Passage]:
    """What plain decoding writes at T = 0."""
    engine = Engine.load(EngineConfig(str(target), compile="never"))
    workload = Workload(PROMPTS, 12, SAMPLINGS[0], with_loops=True)
    return passages_of(engine, workload)[0]


def smoke(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.paper", "--smoke", "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=ROOT)


@pytest.mark.slow
def test_a_rehearsal_fills_the_table_and_a_second_one_trains_nothing(tmp_path: Path) -> None:
    """Red when a stage or a row fails, is left out or done twice, or a figure is not in its place.

    The document is checked for what must hold at any speed: plain reads every weight for every
    token, chains of 4 nodes in 4 passes, drafts of a target that always says the same.
    """
    started = time.monotonic()
    done = smoke(tmp_path)
    first_seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    json_file = next(file for file in tmp_path.glob("*.json") if file.name != "settings.json")
    document = json.loads(json_file.read_text())
    check_document(document)
    assert done.stdout.strip() == json_file.with_suffix(".md").read_text().strip()

    weights = list(tmp_path.glob("*/*.safetensors"))
    assert len(weights) >= 5
    before = {file: file.stat().st_mtime_ns for file in weights}
    runs = (tmp_path / "measured" / "runs.jsonl").read_text()
    started = time.monotonic()
    again = smoke(tmp_path)
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < first_seconds / 2
    assert {file: file.stat().st_mtime_ns for file in weights} == before
    assert (tmp_path / "measured" / "runs.jsonl").read_text() == runs


def check_document(document: dict[str, Any]) -> None:
    assert document["left_out"] == {}
    assert [each["temperature"] for each in document["temperatures"]] == [0.0, 1.0]
    for each in document["temperatures"]:
        rows = {row["mode"]: row for row in each["rows"]}
        assert tuple(rows) == ROWS
        for name in (LOOP, COMPILED, "plain"):
            assert rows[name]["traffic"] == rows[name]["acceptance_length"] == 1.0
            assert rows[name]["draft_passes_per_step"] == 0
        assert rows["chain"]["draft_passes_per_step"] > rows["tree"]["draft_passes_per_step"] > 1
        assert rows["staged-head"]["stages"].keys() == {"head", "ngram"}
        assert all(row["num_diverged"] == 0 for row in rows.values())
        assert all(row["num_repetitions"] == SMOKE.repetitions for row in rows.values())
        assert all(0 < row["share_host"] < 1 for row in rows.values() if row["stages"])
    greedy = {row["mode"]: row for row in document["temperatures"][0]["rows"]}
    assert greedy["staged"]["traffic"] < greedy["tree"]["traffic"] < 1
    assert greedy["staged"]["acceptance_length"] > 2
    assert document["passes"].keys() == {"target", "draft", "head"}
    assert document["shapes"].keys() == SMOKE.shapes.keys()
    assert document["family"]["table"]["temperature"] == 1.5
    assert document["family"].keys() == {"target", "draft", "grown", "head", "table"}
    assert {"hardware", "torch", "transformers", "cuda"} <= document["machine"].keys()
    assert len(document["goals"]) == 13


def request(temperature_index: int = 0) -> GenerateRequest:
    return GenerateRequest("0", (1, 2), 7, SAMPLINGS[temperature_index])


def measured(
    row: str, seconds: float, steps: Sequence[StepStats], repetition: int = 0, **more: Any
) -> Measured:
    run = Run([0.5], [seconds], list(steps), more.pop("divergences", []))
    return Measured(0.0, row, repetition, run, more.pop("gaps", ()))


def step(accepted: int = 0, **passes: int) -> StepStats:
    stages = tuple(StageStats(name, num_passes=n, milliseconds=2.0) for name, n in passes.items())
    return StepStats(1 + accepted, accepted, 10.0, 4.0, stages)


def test_traffic_counts_the_bytes_of_every_network_over_the_tokens_that_came_of_them(
    tmp_path: Path,
) -> None:
    """Red when a draft's passes are free, look-ups are not, or tokens are not those emitted."""
    runs = Runs(tmp_path / "runs.jsonl")
    text = tuple(range(7))  # 6 tokens after the first
    runs.add(measured("plain", 6.0, [step()] * 6))
    runs.add(measured(LOOP, 12.0, [step()] * 6))
    runs.add(measured("staged", 2.0, [step(2, draft=3, ngram=9)] * 2))
    figures = {f["mode"]: f for f in figures_of(runs, [Passage(request(), text)], SCALES)}
    assert figures["plain"]["traffic"] == figures[LOOP]["traffic"] == 1.0
    assert figures["staged"]["traffic"] == pytest.approx((2 * 1000 + 6 * 100) / 6000)
    assert figures["staged"]["ratio_to_loop"] == pytest.approx(6.0)
    assert figures["staged"]["ratio_to_plain"] == pytest.approx(3.0)
    # 3 tokens a second at 433 bytes each, of a million bytes a second
    assert figures["staged"]["share_of_bandwidth"] == pytest.approx(3 * 2600 / 6 / 1e6)
    assert figures["staged"]["share_host"] == pytest.approx(2 / 10)


def test_only_repetitions_that_both_have_are_compared(tmp_path: Path) -> None:
    """Red when a run that was stopped half-way compares a row with another row's time of day."""
    runs = Runs(tmp_path / "runs.jsonl")
    for repetition, seconds in enumerate((6.0, 60.0)):
        runs.add(measured("plain", seconds, [step()] * 6, repetition))
    runs.add(measured("chain", 3.0, [step(1, draft=4)] * 3, repetition=1))
    figures = {f["mode"]: f for f in figures_of(runs, [Passage(request(), (0,) * 7)], SCALES)}
    assert figures["chain"]["ratio_to_plain"] == pytest.approx(20.0)
    assert (figures["chain"]["num_repetitions"], figures["plain"]["num_repetitions"]) == (1, 2)
    assert figures["chain"]["ratio_to_loop"] is None


def test_a_gap_beyond_rounding_is_no_near_tie(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs.jsonl")
    partings = [Divergence(0, 3, 9), Divergence(0, 4, 9)]
    runs.add(measured("plain", 6.0, [step()] * 6, divergences=partings, gaps=(0.2, 0.21)))
    (plain,) = figures_of(runs, [Passage(request(), (0,) * 7)], SCALES)
    assert (plain["num_diverged"], plain["num_near_ties"], plain["largest_gap"]) == (2, 1, 0.21)


def test_runs_and_passages_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Red when a later command reads anything else than the earlier one measured."""
    runs = Runs(tmp_path / "runs.jsonl")
    one = measured(
        "staged",
        2.0,
        [step(2, draft=3, ngram=9)],
        4,
        divergences=[Divergence(0, 3, 9)],
        gaps=(0.2,),
    )
    runs.add(one)
    assert Runs(tmp_path / "runs.jsonl").of(0.0, "staged") == {4: one}
    assert Runs(tmp_path / "runs.jsonl").of(1.0, "staged") == {}
    written = [Passage(replace(request(1), stop_token_ids=(3,)), (7, 8, 9))]
    save_passages(tmp_path / "texts.json", written, 0.25)
    assert load_passages(tmp_path / "texts.json") == (written, 0.25)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Red when a rehearsal's models are measured as if they were trained in full."""
    file = tmp_path / "new" / "settings.json"
    claim(file, {"trees": (8, 2), "prompts": ()})
    claim(file, {"trees": (8, 2), "prompts": ()})
    with pytest.raises(ConfigError, match="of another trees"):
        claim(file, {"trees": (8, 3), "prompts": ()})


class Scripted(Family):
    """A family of two members that only write down that they were made."""

    def _members(self) -> Iterator[Member]:
        def make(out: Path) -> dict[str, Any]:
            (out / "weights").write_text("new")
            return {"tokens": 3}

        yield Member("target", make)
        yield Member("draft", make)


def test_a_member_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Red when a second command trains anew, or takes for whole what was stopped half-way."""
    first = Scripted(SMOKE, tmp_path, (), 1.0, lambda line: None)
    first.make()
    assert first.facts["draft"]["tokens"] == 3
    assert first.facts["draft"]["minutes"] >= 0
    for name in ("target", "draft"):
        (tmp_path / name / "weights").write_text("old")
    (tmp_path / "made" / "draft.json").unlink()  # it had not come to its end
    said: list[str] = []
    Scripted(SMOKE, tmp_path, (), 1.0, said.append).make()
    assert (tmp_path / "target" / "weights").read_text() == "old"
    assert (tmp_path / "draft" / "weights").read_text() == "new"
    assert said == ["draft: making"]


@pytest.mark.parametrize("name", ["loop", "compiled"])
def test_rows_of_others_write_the_same_text_and_a_step_is_a_token(
    name: str, target: Path, passages: list[Passage]
) -> None:
    """Red when a row reads its cache wrongly, stops at an end of text, or misses a token."""
    model = hugging_face.load(target, "float32")
    options = hugging_face.compiling(64, backend="eager")
    generate = {
        "loop": token_loop(model, SAMPLINGS[0]),
        "compiled": hugging_face.generation(model, do_sample=False, **options),
    }[name]
    run = run_peer(generate, passages)
    assert run.divergences == []
    assert len(run.steps) == sum(len(passage.text) - 1 for passage in passages)
    assert all(seconds > 0 for seconds in (*run.seconds, *run.first_token_seconds))


def test_the_loop_draws_from_the_best_tokens_only(target: Path, passages: list[Passage]) -> None:
    """Red when top-k or the temperature is forgotten: of one token, or a cold one, is one text."""
    model = AutoModelForCausalLM.from_pretrained(target)
    for certain in (replace(SAMPLINGS[1], top_k=1), replace(SAMPLINGS[1], temperature=1e-3)):
        assert run_peer(token_loop(model, certain), passages).divergences == []
    drawn = run_peer(token_loop(model, replace(SAMPLINGS[1], temperature=50.0)), passages)
    assert len(drawn.divergences) == len(passages)


def test_another_text_is_reported_where_it_parts(passages: list[Passage]) -> None:
    def generate(task: Any, emit: Callable[[Sequence[int]], None]) -> None:
        text = passages[task.prompt == passages[1].request.prompt].text
        for token in (*text[:3], (text[3] + 1) % 64, *text[4:]):
            emit([token])

    run = run_peer(generate, passages)
    expected = [Divergence(i, 3, (p.text[3] + 1) % 64) for i, p in enumerate(passages)]
    assert run.divergences == expected


@pytest.fixture
def contest(target: Path, tmp_path: Path) -> Contest:
    """A contest over tiny random models, every row of which is there."""
    draft = save_checkpoint(tmp_path / "draft", seed=1)
    head = save_head_checkpoint(tmp_path / "head", *make_head_weights(make_network()))
    stages = (ModelStageConfig(str(draft), budget=8), NgramStageConfig())
    config = EngineConfig(str(target), stages, max_model_len=64, compile="never")
    plan = replace(SMOKE, num_tokens=8, repetitions=3)
    loaded = Loaded.of(config)
    return Contest(plan, loaded, HeadStageConfig(str(head)), tmp_path, lambda line: None)


def test_every_row_is_there_at_both_temperatures(contest: Contest) -> None:
    for sampling in SAMPLINGS:
        assert {row.name for row in contest._rows(sampling)} == set(ROWS)


def test_measuring_ends_in_time_and_goes_on_later(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a deadline is not kept, costs the first repetition, or a run is done twice."""
    calls: list[str] = []

    def row(name: str) -> Row:
        def run(passages: Sequence[Passage]) -> Run:
            calls.append(name)
            return Run([0.1] * len(passages), [0.1] * len(passages), [step()])

        return Row(name, run)

    monkeypatch.setattr(contest, "_rows", lambda sampling: [row("plain"), row("chain")])
    contest.measure(PROMPTS, deadline=time.monotonic() - 1)
    assert [len(contest.runs.of(t, "chain")) for t in (0.0, 1.0)] == [1, 1]
    assert len(calls) == 2 * (2 + 2)  # each warmed up first
    contest.measure(PROMPTS, deadline=time.monotonic() + 60)
    assert [sorted(contest.runs.of(t, "plain")) for t in (0.0, 1.0)] == [[0, 1, 2]] * 2
    assert len(calls) == 8 + 2 * 2 * 2
    assert calls[-8:-4] == ["chain", "plain"] * 2  # the second repetition begins with another


def test_a_row_of_others_that_fails_is_left_out_and_one_of_ours_is_an_error(
    contest: Contest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(passages: Sequence[Passage]) -> Run:
        raise ValueError("no compiler\nand more")

    monkeypatch.setattr(contest, "_rows", lambda sampling: [Row(COMPILED, broken)])
    contest.measure(PROMPTS, deadline=0.0)
    assert contest.left_out == {COMPILED: "ValueError: no compiler"}
    monkeypatch.setattr(contest, "_rows", lambda sampling: [Row("staged", broken)])
    with pytest.raises(ValueError, match="no compiler"):
        contest.measure(PROMPTS, deadline=0.0)


def test_an_untrained_shape_tells_its_cost() -> None:
    figures = measure_shape(SMOKE, "tiny", "float32", "never")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
    norms = 3 * 64
    assert figures["passes"]["weight_bytes"] == 4 * (layer + 512 * 64 + norms)
    assert figures["num_parameters"] == layer + 512 * 64 + norms
    assert set(figures["passes"]["median_ms"]) == set(WIDTHS)
    low, high = figures["tokens_per_second_range"]
    assert 0 < low <= figures["tokens_per_second"] <= high


def test_the_plan_has_the_paper_s_sizes() -> None:
    """Red when the target cannot grow to 762M, or a size in the documents is another."""
    with torch.device("meta"):
        trained, draft = (
            LlamaForCausalLM(llama(8192, *sizes)).num_parameters()
            for sizes in (FULL.target, FULL.draft)
        )
    assert (round(trained / 1e6), round(draft / 1e6)) == (147, 43)
    assert round(FULL.grown.num_parameters(8192) / 1e6) == 760
    assert sum(FULL.shares.values()) < 0.5


def test_goals_tell_what_was_met_and_what_was_not_measured() -> None:
    rows = [{"mode": "staged", "ratio_to_loop": 9.0, "ratio_to_plain": 2.0, "share_host": 0.05}]
    rows[0]["traffic"] = 0.25
    passes = {name: {"median_ms": {"1": ms}} for name, ms in (("draft", 1.0), ("target", 9.0))}
    document = {
        "temperatures": [{"temperature": 0.0, "rows": rows}],
        "passes": passes,
        "shapes": {"8B": {"share_of_bandwidth": 0.8}},
    }
    verdicts = {goal.name: goal.is_met for goal in goals(document)}
    assert verdicts == {
        "T = 0: staged in the loop's speed": True,
        "T = 0: staged in plain's speed": False,
        "T = 0: host's share of a staged step": True,
        "T = 0: weight traffic of chain": None,
        "T = 0: weight traffic of staged": None,
        "T = 0: plain's share of the bandwidth at 762M": None,
        "plain's share of the bandwidth at 8B": True,
        "a draft pass in target passes": True,
    }
