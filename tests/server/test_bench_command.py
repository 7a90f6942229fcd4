"""`stagetree bench` from its flags to its tables and its JSON, on a tiny random family."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from engine import ConfigError, SamplingParams
from engine.benchmark import Comparison
from engine.benchmark import Result as Figures
from server.cli import app
from server.commands.bench import BenchOptions, _prompts
from server.commands.bench_tables import tables
from server.commands.prompts import Prompt, encoded, read_prompts
from server.commands.samples import BEGINNINGS, CHAT
from server.sources import load_settings
from server.text import ChatTemplates, Tokenizer
from tests.checkpoints import save_checkpoint
from tests.server.fakes import byte_level_tokenizer

GUIDE = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
MODES = [
    *("plain", "chain", "tree", "chain-draft2", "tree-draft2", "ngram"),
    *("staged-draft", "staged-draft2", "auto"),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, a draft with the target's weights, a weak one, prompts, and a configuration."""
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in ((0, "target"), (0, "draft"), (1, "weak")):
        save_checkpoint(folder / name, seed=seed, vocab_size=320, bos_token_id=0, eos_token_id=0)
    byte_level_tokenizer().inner.save(str(folder / "target" / "tokenizer.json"))
    prompts = ("def hello(world):", "    return", "def world(")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt}) + "\n\n" for prompt in prompts)
    )
    (folder / "kinds.jsonl").write_text(
        "".join(
            json.dumps({"prompt": prompt, "category": kind}) + "\n"
            for kind in ("code", "prose")
            for prompt in prompts
        )
    )
    stages = [{"kind": "model", "model": str(folder / "draft")}, {"kind": "ngram"}]
    weak = [{"kind": "model", "model": str(folder / "weak")}]
    settings = {"model": str(folder / "target"), "stages": stages, "alternatives": weak}
    (folder / "tiny.yaml").write_text(json.dumps({**settings, "dtype": "float32"}))
    return folder


def run(family: Path, *arguments: str) -> Result:
    """The command in this process, on a terminal of 100 columns."""
    given = ["bench", "--config", str(family / "tiny.yaml"), *arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "100"})


@dataclass(frozen=True)
class Bench:
    """What one run of the command printed and wrote."""

    output: str
    document: dict[str, Any]

    def result(self, mode: str, temperature: float = 1.0) -> dict[str, Any]:
        """The one entry of a mode at a temperature."""
        results = self.document["results"]
        found = [r for r in results if (r["mode"], r["temperature"]) == (mode, temperature)]
        assert len(found) == 1
        return found[0]


@pytest.fixture(scope="module")
def bench(family: Path) -> Bench:
    file = family / "bench.json"
    prompts = ("--prompts", str(family / "prompts.jsonl"), "--num-prompts", "2")
    sizes = ("--tokens", "12", "--repetitions", "2", "--budget", "5", "--passes", "3")
    result = run(family, *prompts, *sizes, "--json", str(file))
    assert result.exit_code == 0, result.output
    return Bench(result.output, json.loads(file.read_text()))


def test_every_mode_is_listed_at_both_temperatures(bench: Bench) -> None:
    listed = [(result["temperature"], result["mode"]) for result in bench.document["results"]]
    expected = [*MODES, "staged"]
    assert listed == [(temperature, mode) for temperature in (0.0, 1.0) for mode in expected]
    assert [each["top_k"] for each in bench.document["temperatures"]] == [0, 50]
    assert all(0 <= each["share_cut"] < 1 for each in bench.document["temperatures"])


def test_staged_repeats_the_configured_mode(bench: Bench) -> None:
    assert bench.document["configured"] == "staged-draft"
    assert bench.result("staged") == {**bench.result("staged-draft"), "mode": "staged"}


def test_options_reach_the_measurement(bench: Bench) -> None:
    """Red when a flag is parsed and forgotten."""
    document = bench.document
    assert (document["num_prompts"], document["num_tokens"], document["repetitions"]) == (2, 12, 2)
    assert all(each["num_tokens"] <= 2 * 12 for each in document["temperatures"])
    for mode in ("tree", "tree-draft2", "staged-draft2"):
        stage = document["modes"][mode]["stages"][0]
        assert (stage["budget"], stage["passes"]) == (5, 3)
    assert document["modes"]["auto"]["stages"][0]["budget"] == 32
    assert document["modes"]["chain"]["stages"][0]["budget"] == 4
    assert bench.result("tree")["nodes_per_step"] <= 1 + 5
    assert 1 < bench.result("tree")["draft_passes_per_step"] <= 3


def test_an_alternative_is_measured_in_the_place_of_the_first_stage(bench: Bench) -> None:
    """The draft is the target itself and the alternative knows nothing of it."""
    assert bench.result("chain")["acceptance_length"] > 2.5
    assert bench.result("chain-draft2")["acceptance_length"] < 2.5
    stages = bench.document["modes"]["staged-draft2"]["stages"]
    assert [stage["name"] for stage in stages] == ["draft", "ngram"]
    assert stages[0]["model"].endswith("weak")


@pytest.fixture(scope="module")
def kinds(family: Path) -> Bench:
    """A run by category, with a top-p."""
    file = family / "kinds.json"
    prompts = ("--prompts", str(family / "kinds.jsonl"), "--num-prompts", "2", "--top-p", "0.9")
    sizes = ("--tokens", "12", "--repetitions", "2", "--mode", "staged", "--mode", "ngram")
    result = run(family, *prompts, *sizes, "--beside", "bfloat16", "--json", str(file))
    assert result.exit_code == 0, result.output
    return Bench(result.output, json.loads(file.read_text()))


def test_every_category_is_measured_and_together_they_are_the_whole(kinds: Bench) -> None:
    """Red when a step or a second of one category is counted in another, or in none."""
    entries = kinds.document["categories"]
    modes = ["plain", "ngram", "staged-draft"]
    assert kinds.document["num_prompts"] == 4
    assert [(e["temperature"], e["category"], e["mode"]) for e in entries] == [
        (temperature, kind, mode)
        for temperature in (0.0, 1.0)
        for kind in ("code", "prose")
        for mode in modes
    ]
    for mode in modes:
        parts = [e["stages"] for e in entries if (e["mode"], e["temperature"]) == (mode, 1.0)]
        for name, whole in kinds.result(mode)["stages"].items():
            for count in ("num_proposed", "num_accepted", "num_passes"):
                assert sum(part[name][count] for part in parts) == whole[count]


def test_the_worst_category_of_a_mode_is_named(kinds: Bench) -> None:
    """Red when the best is called the worst, or that of another mode."""
    for at in kinds.document["temperatures"]:
        for mode in ("ngram", "staged-draft"):
            ratios = {
                e["category"]: e["ratio_to_plain"]
                for e in kinds.document["categories"]
                if (e["mode"], e["temperature"]) == (mode, at["temperature"])
            }
            assert at["worst"][mode] == min(ratios, key=ratios.__getitem__)
            worst = rf"^ worst: {at['worst'][mode]} +{mode} "
            assert re.search(worst, kinds.output, re.MULTILINE)


def test_a_top_p_stands_in_place_of_the_top_k(kinds: Bench) -> None:
    """Red when the flag is parsed and forgotten."""
    greedy, sampled = kinds.document["temperatures"]
    assert (greedy["top_k"], greedy["top_p"]) == (0, 1.0)
    assert (sampled["top_k"], sampled["top_p"]) == (0, 0.9)
    assert "T = 1, top-p 0.9: by category" in kinds.output


def test_the_fastest_plain_of_any_precision_stands_beside(kinds: Bench) -> None:
    """Red when a ratio to a slow plain is all that is told, or the other dtype is not loaded."""
    speeds = kinds.document["plain_tokens_per_second"]
    assert list(speeds) == ["float32", "bfloat16"]
    assert speeds["float32"] == [kinds.result("plain", t)["tokens_per_second"] for t in (0.0, 1.0)]
    for at in (0, 1):
        fastest = max(speeds, key=lambda name: speeds[name][at])
        assert f"fastest plain at T = {at}: {fastest} (tokens/s: float32 " in kinds.output


def test_several_sizes_tell_what_each_brings_and_what_of_the_best_auto_has(family: Path) -> None:
    """Red when sizes are missing in a table or in the JSON, or texts are counted that taught."""
    file = family / "sizes.json"
    prompts = ("--prompts", str(family / "kinds.jsonl"), "--num-prompts", "2", "--warm", "1")
    sizes = ("--budget", "1", "--budget", "3", "--mode", "ngram", "--mode", "auto", "--texts", "2")
    few = ("--tokens", "12", "--repetitions", "1")
    result = run(family, *prompts, *sizes, *few, "--json", str(file))
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    assert list(document["modes"]) == ["plain", "ngram/1", "ngram/3", "auto"]
    counts = [document[key] for key in ("num_prompts", "num_warm", "num_texts")]
    assert counts == [4, 2, 2]
    for at in document["temperatures"]:
        assert list(at["pass_ms"]) == ["2", "4", "8"]
        # What is left of a short text may be too little for two at once.
        assert {"all"} < at["best"].keys() <= {"all", "code", "prose"}
    assert "T = 0: τ by draft nodes" in result.output
    assert len(re.findall(r"\d ms +t\(1 \+ n\) / t\(1\)( +\d\.\d\d){2}", result.output)) == 2
    for row in (r"ngram +\d\.\d\d +\d\.", r"(?:ngram/\d|plain) +\d\."):
        listed = len(re.findall(rf"^ (?:all|code|prose) +{row}", result.output, re.MULTILINE))
        assert listed == sum(len(at["best"]) for at in document["temperatures"])


def test_without_categories_there_is_no_table_of_them(bench: Bench) -> None:
    """Red when one nameless category is listed beside the whole."""
    assert bench.document["categories"] == [] and "category" not in bench.output


def test_in_a_chat_the_template_writes_the_prompts_out() -> None:
    """Red when the template's own special tokens are added once more, or the prompt goes bare."""
    inner = byte_level_tokenizer().inner
    source = "<{{ messages[0]['content'] }}>{% if add_generation_prompt %}:{% endif %}"
    tokenizer = Tokenizer(inner, templates=ChatTemplates({"default": source}))
    for override, written in ((None, "<hello>:"), ("!{{ messages[0].content }}", "!hello")):
        ((*ids,),) = encoded([Prompt("hello")], tokenizer, True, override, 100, num_tokens=10)
        assert ids == tokenizer.encode(written, add_special_tokens=False)


def test_the_built_in_questions_are_counted_by_category_as_those_of_a_file_are() -> None:
    """Red when one of N is one of all."""
    chosen = _prompts(BenchOptions(chat=True, num_prompts=1))
    assert {each.category for each in chosen} == {each.category for each in CHAT}
    assert len(chosen) == len(CHAT) - 1
    assert _prompts(BenchOptions(num_prompts=2)) == list(BEGINNINGS[:2])


@pytest.mark.parametrize("command", ["bench", "doctor", "fit"])
def test_a_template_of_the_settings_serves_a_model_that_has_none(
    family: Path, tmp_path: Path, command: str
) -> None:
    """Red when a command that measures asks the model alone."""
    template = tmp_path / "own.jinja"
    template.write_text("<{{ messages[0]['content'] }}>")
    prompts = ("--prompts", str(family / "prompts.jsonl"), "--tokens", "2")
    config = tmp_path / "plain.yaml"
    config.write_text(json.dumps({"model": str(family / "target"), "stages": []}))
    given = [command, "--config", str(config), "--chat", *prompts]
    assert "no chat template" in CliRunner().invoke(app, given).output
    result = CliRunner().invoke(app, [*given, "--chat-template", str(template)])
    assert result.exit_code == 0, result.output


def test_the_guide_names_every_key_and_no_other(bench: Bench) -> None:
    """Red when the JSON changes and docs/benchmark.md does not."""
    schema = GUIDE[GUIDE.index("## The JSON") :].split("| key of a result | |")
    document, result = (
        {key for line in part.splitlines() for key in _keys_of_row(line)} for part in schema
    )
    assert document == bench.document.keys()
    assert result == bench.result("staged").keys()
    stage = bench.result("staged")["stages"]["draft"]
    assert [key for key in stage if f"`{key}`" not in GUIDE] == []


def _keys_of_row(line: str) -> list[str]:
    return re.findall(r"`(\w+)`", line.split("|")[1]) if line.startswith("| `") else []


def test_the_guide_names_every_option() -> None:
    named = set(re.findall(r"\| `(--[\w-]+)", GUIDE)) | {"--num-prompts"}
    shown = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "100"}).output
    ours = set(re.findall(r"--[\w-]+", shown)) - {"--help"}
    shared = {"--model", "--draft", "--lora", "--config", "--dtype", "--device", "--threads"}
    assert named == ours - shared


def test_the_tables_say_what_was_measured(bench: Bench) -> None:
    for mode in MODES:
        name = "staged-draft *" if mode == "staged-draft" else mode
        assert len(re.findall(rf"^ {re.escape(name)} .*\d", bench.output, re.MULTILINE)) == 4
    assert (
        len(re.findall(r"^T = (?:0|1, top-k 50) \(\d+ tokens; \d+% cut", bench.output, re.M)) == 2
    )
    for heading in ("tokens/s", "x plain", "95 %", "τ", "TTFT", "accepted", "ngram", "target"):
        assert heading in bench.output


def test_the_tables_fit_100_columns() -> None:
    """With a draft, a head, n-grams, and figures as large as they get."""
    stages = {name: {"accepted_per_step": 12.34} for name in ("head", "draft", "ngram")}
    phases = dict.fromkeys(("target", *stages, "other"), 1234.56)
    figures = (12345.6, 12.34, 12.34, 12.34, 12.34, 12.34, 12.34, 1234.5, 12345.6)
    result = Figures("staged-draft2", 1.0, *figures, stages, phases)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(*tables(Comparison([result], 10, 0.5), SamplingParams(1.0, 50), result.mode))
    text = capture.get()
    assert "…" not in text and "1234.56" in text and "12.34–12.34" in text


def test_a_file_gets_whole_columns(family: Path) -> None:
    """A pipe has no width of its own, and 80 columns would cut figures off."""
    few = ("--num-prompts", "1", "--tokens", "4", "--repetitions", "1", "--mode", "staged")
    result = run(family, *few)
    assert result.exit_code == 0, result.output
    assert "…" not in result.output


def test_only_the_named_modes_run_beside_plain(family: Path) -> None:
    file = family / "two.json"
    few = ("--num-prompts", "1", "--tokens", "4", "--repetitions", "1")
    result = run(family, *few, "--mode", "staged", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert list(json.loads(file.read_text())["modes"]) == ["plain", "staged-draft"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "staged-drft"], "unknown mode 'staged-drft'. Did you mean 'staged-draft'?"),
        (["--mode", "zzz"], "unknown mode 'zzz'. Valid names: plain, chain,"),
        (["--tokens", "512"], "a window of 512: ask for 511 or fewer, or raise max_model_len"),
        (["--budget", "5000"], "lower its budget"),
        (["--warm", "8"], "--warm 8 leaves no prompt to be counted: give more"),
        (["--mode", "ngram/2", "--budget", "3"], "unknown mode 'ngram/2'. Did you mean 'ngram'?"),
        (["--prompts", "absent.jsonl"], "--prompts absent.jsonl: cannot be read"),
        (["--beside", "bfloat61"], "--beside: unknown dtype 'bfloat61'. Did you mean 'bfloat16'?"),
        (["--chat"], "--chat: the model has no chat template: leave --chat out"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_remedy(
    family: Path, arguments: list[str], message: str
) -> None:
    result = run(family, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"prompt": "a"}\n\nnot json', "line 3: must be"),
        ('{"promt": "a"}', "line 1: must be"),
        ('{"prompt": ""}', "line 1: must be"),
        ('{"prompt": 3}', "line 1: must be"),
        ('["prompt"]', "line 1: must be"),
        ('{"prompt": "a", "category": 3}', "line 1: must be"),
    ],
)
def test_a_bad_prompts_file_is_refused_by_line(
    family: Path, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    result = run(family, "--prompts", str(path))
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert '{"prompt": "..."}' in " ".join(result.output.split())


def test_a_category_is_given_to_all_prompts_or_none(tmp_path: Path) -> None:
    """Red when prompts without one are counted nowhere."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "category": "b"}\n{"prompt": "a"}')
    with pytest.raises(ConfigError, match="line 2: either every prompt has a category or none"):
        read_prompts(path)


def test_alternatives_are_checked_as_stages_are(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    for stages, message in (
        ("[{kind: ngram}]", r"alternatives\[0\] .*must be of kind model or head"),
        ("[{kind: haed, model: x}]", r"alternatives\[0\].kind: .* Did you mean 'head'\?"),
        ("[{kind: head, modl: x}]", r"unknown key alternatives\[0\].modl. Did you mean 'model'"),
        ("[{kind: model, model: x, budget: 9999}]", r"with alternatives\[0\] in the first place"),
    ):
        path.write_text(f"model: x\nalternatives: {stages}")
        with pytest.raises(ConfigError, match=f"some.yaml: .*{message}"):
            load_settings(path, {})


def test_alternatives_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETREE_ALTERNATIVES", '[{"kind": "head", "model": "a-head"}]')
    config = load_settings(None, {}).engine
    assert [(stage.name, stage.model) for stage in config.alternatives] == [("head", "a-head")]
    assert config.alternatives[0] not in config.stages
