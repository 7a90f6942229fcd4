"""`stagetree doctor` from its flags to its sentences and its JSON, and each sentence for itself."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from engine import EngineConfig, ModelInfo
from engine.benchmark import Comparison, Examination, PassCosts, doctor
from engine.benchmark import Result as Figures
from engine.benchmark.hardware import cpp_compiler
from server.cli import app
from server.commands.doctor_findings import advice, choice, precision
from server.commands.doctor_tables import mode_table, pass_tables
from server.commands.samples import CHAT
from tests.checkpoints import save_checkpoint
from tests.server.fakes import byte_level_tokenizer

GUIDE = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
CONFIG = EngineConfig("a-model", compile="wait")
WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, a draft with its weights, a draft that knows nothing of it, and configurations."""
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in ((0, "target"), (0, "draft"), (1, "weak")):
        save_checkpoint(folder / name, seed=seed, vocab_size=320, bos_token_id=0, eos_token_id=0)
    byte_level_tokenizer().inner.save(str(folder / "target" / "tokenizer.json"))
    shutil.copytree(folder / "target", folder / "chatty")
    template = {"chat_template": "<{{ messages[0]['content'] }}>"}
    (folder / "chatty" / "tokenizer_config.json").write_text(json.dumps(template))
    (folder / "chat.yaml").write_text(json.dumps({"model": str(folder / "chatty"), "stages": []}))
    settings = {"model": str(folder / "target"), "dtype": "float32"}
    for name, stages in (
        ("staged", [{"kind": "model", "model": str(folder / "draft")}, {"kind": "ngram"}]),
        ("useless", [{"kind": "model", "model": str(folder / "weak")}]),
        ("plain", []),
    ):
        (folder / f"{name}.yaml").write_text(json.dumps({**settings, "stages": stages}))
    (folder / "prompts.jsonl").write_text('{"prompt": "def f("}\n\n{"prompt": "return"}\n')
    return folder


def run(family: Path, config: str, *arguments: str) -> Result:
    """The command in this process."""
    given = ["doctor", "--config", str(family / f"{config}.yaml"), *arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "100"})


@dataclass(frozen=True)
class Report:
    """What one run of the command printed, in one line, and wrote."""

    output: str
    text: str
    document: dict[str, Any]


def report(family: Path, config: str, *arguments: str) -> Report:
    """One run over few tokens."""
    file = family / f"{config}.json"
    result = run(family, config, "--tokens", "12", "--json", str(file), *arguments)
    assert result.exit_code == 0, result.output
    return Report(result.output, " ".join(result.output.split()), json.loads(file.read_text()))


@pytest.fixture(scope="module")
def staged(family: Path) -> Report:
    return report(family, "staged", "--prompt", "def hello(world):", "--temperature", "1")


def test_every_mode_is_predicted_and_measured(staged: Report) -> None:
    results = staged.document["results"]
    modes = [result["mode"] for result in results]
    assert modes == ["plain", "chain", "tree", "ngram", "staged-draft", "auto"]
    for result in results:
        assert result["predicted_tokens_per_second"] > 0 < result["tokens_per_second"]
        assert 0 <= result["share_plain"] + result["share_without_draft_pass"] <= 1
        assert re.search(rf"^ {re.escape(result['mode'])} .*\d", staged.output, re.MULTILINE)
    shares = {result["mode"]: result["share_plain"] for result in results}
    assert shares["plain"] == 1.0 > shares["chain"]


def test_options_reach_the_measurement(staged: Report, family: Path) -> None:
    """Red when a flag is parsed and forgotten."""
    document = staged.document
    assert (document["num_prompts"], document["temperature"]) == (1, 1.0)
    assert document["num_tokens"] <= 12
    assert document["precision"] == "float32, as asked for"
    two = report(family, "plain", "--prompts", str(family / "prompts.jsonl"))
    assert two.document["num_prompts"] == 2


def test_the_curves_are_of_every_network(staged: Report, family: Path) -> None:
    """Red when a curve is looked up by a name that no network has: it would be zero."""
    passes = staged.document["passes"]
    assert [(each["name"], each["form"]) for each in passes] == [
        ("target", "eager"),
        ("draft", "eager"),
    ]
    for each in passes:
        assert list(map(int, each["milliseconds"])) == list(WIDTHS)
        assert all(milliseconds > 0 for milliseconds in each["milliseconds"].values())
        seconds = each["weight_bytes"] / staged.document["bytes_per_second"]
        assert each["floor_ms"] == pytest.approx(1e3 * seconds)
    assert staged.output.count("█") > 2 and "target, eager:" in staged.text


def test_without_a_draft_it_says_so(family: Path) -> None:
    bare = report(family, "plain")
    assert "No draft stage is configured, so every step is a plain one." in bare.text
    assert "name a --draft model of the same family" in bare.text
    assert [result["mode"] for result in bare.document["results"]] == ["plain"]


def test_a_chat_is_shown_by_category(family: Path) -> None:
    """Red when the built-in questions lose their kinds, or go past the template."""
    chat = report(family, "chat", "--chat")
    kinds = {each.category for each in CHAT}
    assert chat.document["categories"].keys() == kinds and len(kinds) == 7
    assert chat.document["num_prompts"] == len(CHAT)
    assert all(re.search(rf"^ {kind} +plain ", chat.output, re.MULTILINE) for kind in kinds)


def test_a_useless_draft_is_named(family: Path) -> None:
    useless = report(family, "useless")
    assert "it writes other text than the target" in useless.text
    assert "A pass of draft costs" in useless.text


def test_a_machine_without_a_compiler_is_told_of_it(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "cpp_compiler", lambda: None)
    monkeypatch.setenv("STAGETREE_COMPILE", "cached")
    monkeypatch.setenv("STAGETREE_CACHE_DIR", str(tmp_path))
    found = report(family, "plain")
    assert found.document["cpp_compiler"] is None
    assert "C++ compiler: none" in found.text
    assert "no C++ compiler was found. Install g++" in found.text


def test_a_compiler_is_found_where_torch_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    assert cpp_compiler() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--prompts", "b"], "--prompt and --prompts exclude each other"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompts", "absent.jsonl"], "--prompts absent.jsonl: cannot be read"),
        (["--tokens", "512"], "a window of 512: ask for 511 or fewer, or raise max_model_len"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_remedy(
    family: Path, arguments: list[str], message: str
) -> None:
    result = run(family, "plain", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_the_guide_names_every_key_and_option(staged: Report) -> None:
    """Red when the JSON or the options change and docs/benchmark.md does not."""
    section = GUIDE[GUIDE.index("## The doctor") :].partition("\n## ")[0]
    named = set(re.findall(r"`([\w-]+)`", section))
    assert named >= staged.document.keys()
    assert named >= {key for passes in staged.document["passes"] for key in passes}
    shown = CliRunner().invoke(app, ["doctor", "--help"], env={"COLUMNS": "100"}).output
    ours = set(re.findall(r"--[\w-]+", shown)) - {"--help"}
    shared = {"--model", "--draft", "--lora", "--config", "--dtype", "--device", "--threads"}
    assert named >= ours - shared


# ---- each sentence for itself -------------------------------------------------------------------


def costs(name: str, milliseconds: float = 1.0, form: str = "compiled") -> PassCosts:
    """Passes that cost one more hundredth a row."""
    times = {rows: milliseconds * (1 + (rows - 1) / 100) for rows in WIDTHS}
    return PassCosts(name, form, 4_000_000, 0.5, times)


def figures(mode: str, **changes: Any) -> Figures:
    """A mode twice as fast as plain, if nothing else is said."""
    result = Figures(
        mode=mode,
        temperature=0.0,
        tokens_per_second=200.0,
        ratio_to_plain=2.0,
        ratio_low=1.9,
        ratio_high=2.1,
        acceptance_length=3.0,
        step_cost=1.5,
        draft_passes_per_step=1.0,
        nodes_per_step=9.0,
        time_to_first_token_ms=1.0,
        stages={},
        phases_ms={"target": 1.0, "other": 0.1},
        predicted_tokens_per_second=205.0,
        share_plain=0.25,
        share_without_draft_pass=0.5,
    )
    return replace(result, **changes)


def healthy(**changes: Any) -> Examination:
    """A quiet machine with a good, cheap, compiled draft over n-grams."""
    stages = {
        "draft": {"num_proposed": 40, "num_accepted": 20},
        "ngram": {"num_proposed": 0, "num_accepted": 0},
    }
    results = [
        figures("plain", tokens_per_second=100.0),
        figures("chain", tokens_per_second=160.0),
        figures("auto", stages=stages),
    ]
    info = ModelInfo("a-model", 512, 320, (0,), "float32", "cpu", 1_000_000, ("draft", "ngram"))
    examination = Examination(
        machine={"hardware": "a processor", "cores": 4, "threads": 4, "torch": "2"},
        load_average=0.4,
        bytes_per_second=8e9,
        cpp_compiler="g++",
        info=info,
        passes=(costs("target"), costs("draft", 0.2)),
        comparison=Comparison(results, 100, 0.0),
    )
    return replace(examination, **changes)


def with_auto(**changes: Any) -> Examination:
    """The same with other figures of `auto`."""
    sound = healthy()
    *others, auto = sound.comparison.results
    return replace(sound, comparison=Comparison([*others, replace(auto, **changes)], 100, 0.0))


def test_a_healthy_pair_gets_no_advice_and_an_account() -> None:
    assert advice(healthy(), CONFIG) == []
    account = " ".join(choice(healthy()))
    for part in (
        "auto wrote 3.00 tokens a step with trees of 9.0 nodes, root included, and 1.00 draft",
        "A step cost 1.50 plain ones, so auto was 2.00 times as fast",
        "25% of its steps were plain, and 50% verified what n-grams guessed",
        "Of what draft proposed first, 50% was accepted (40 nodes verified).",
        "Nothing that ngram proposed was worth verifying.",
        "over 16 nodes costs 1.15 of its passes over one, a pass of draft 0.20: a step of one each "
        "pays from 1.35 tokens on.",
        "The fastest fixed mode was chain; auto reached 125% of its speed.",
    ):
        assert part in account


def ailments() -> Iterator[tuple[Examination, EngineConfig, str]]:
    """Machines and pairs with one fault each, and what must be said of it."""
    sound = healthy()
    eager = (costs("target", form="eager"), costs("draft", 0.2))
    info = replace(sound.info, refusals={"target": "what was compiled is wrong", "draft": "none"})
    told = "passes of target run eagerly.*: of target, what was compiled is wrong\\.$"
    yield replace(sound, passes=eager, info=info), CONFIG, told
    yield replace(sound, passes=eager, cpp_compiler=None), CONFIG, "Install g\\+\\+, or .* in CXX"
    for compiled in ("never", "cached"):
        config = EngineConfig("a-model", compile=compiled)
        yield replace(sound, passes=eager), config, f"compile is set to {compiled}"
    yield replace(sound, load_average=6.4), CONFIG, "6.4 processes wanted 4 cores.* idle"
    crowded = {**sound.machine, "threads": 12}
    yield replace(sound, machine=crowded), CONFIG, "12 threads share 4 cores.*--threads 4"
    dear = (costs("target"), costs("draft", 0.7))
    yield replace(sound, passes=dear), CONFIG, "draft costs 0.70 of one of the target.* or none"
    plain, chain, auto = sound.comparison.results
    busy = replace(plain, phases_ms={"target": 1.6})
    comparison = Comparison([busy, chain, auto], 100, 0.0)
    yield replace(sound, comparison=comparison), CONFIG, "1.6 times as long.*other work"
    rejected = replace(chain, acceptance_length=1.2)
    comparison = Comparison([plain, rejected, auto], 100, 0.0)
    yield replace(sound, comparison=comparison), CONFIG, "only 0.20 tokens .*stagetree train"
    loss = with_auto(ratio_to_plain=0.8, ratio_high=0.9)
    yield loss, CONFIG, "auto lost 20% to plain decoding"
    yield with_auto(predicted_tokens_per_second=300.0), CONFIG, "forecast .* 50% too high"
    yield with_auto(predicted_tokens_per_second=100.0), CONFIG, "forecast .* 50% too low"


@pytest.mark.parametrize(("examination", "config", "pattern"), list(ailments()))
def test_each_fault_gets_one_sentence_with_its_remedy(
    examination: Examination, config: EngineConfig, pattern: str
) -> None:
    (sentence,) = advice(examination, config)
    assert re.search(pattern, sentence)


def test_on_a_busy_machine_nothing_is_made_of_times() -> None:
    """Red when it is said in one breath that no figure is clean, and what to change by them."""
    slow = with_auto(ratio_to_plain=0.8, ratio_high=0.9, predicted_tokens_per_second=300.0)
    assert len(advice(slow, CONFIG)) == 2
    (sentence,) = advice(replace(slow, load_average=6.4), CONFIG)
    assert "no figure here is clean" in sentence


def test_a_gpu_is_not_blamed_for_eager_passes_or_threads() -> None:
    passes = (costs("target", form="eager"), costs("draft", 0.2, form="eager"))
    sound = healthy(passes=passes, cpp_compiler=None)
    machine = {**sound.machine, "threads": 12}
    on_gpu = replace(sound, info=replace(sound.info, device="cuda"), machine=machine)
    assert advice(on_gpu, CONFIG) == []


def test_the_precision_is_explained() -> None:
    """Red when doctor guesses why, instead of asking who chose it."""
    sound = healthy()
    info = replace(sound.info, dtype="bfloat16", precision="that of the checkpoint")
    assert precision(replace(sound, info=info)) == "bfloat16, that of the checkpoint"


def test_the_tables_fit_100_columns() -> None:
    """With figures as large as they get."""
    wide = costs("target", 1234.56)
    results = [
        figures(mode, tokens_per_second=12345.6, ratio_low=12.34, ratio_high=12.34)
        for mode in ("plain", "staged-draft2")
    ]
    examination = healthy(passes=(wide,), comparison=Comparison(results, 100, 0.0))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(*pass_tables(examination.passes), mode_table(examination))
    text = capture.get()
    assert "…" not in text and "1234.56" in text and "12.34–12.34" in text
    bars = [line.count("█") for line in text.splitlines() if "█" in line]
    assert bars == sorted(bars) and len(bars) == len(WIDTHS)
