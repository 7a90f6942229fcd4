"""`stagetree train` and `stagetree ngram` from the command line to a drafter that is served."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

from engine import EngineConfig, Finished, GenerateRequest, Output, Speculation
from engine.api import Engine
from engine.training import corpus, family_plan
from engine.training.corpus import Source
from engine.training.recipe import Recipe
from engine.training.sample import SamplePlan
from engine.training.shapes import HeadPlan, llama
from engine.training.tokenizer import train_tokenizer
from server.cli import app
from server.commands import train
from tests.checkpoints import save_checkpoint

SMALL = ("--batch-tokens", "64", "--max-length", "32", "--max-steps", "6")
PROMPT = "def a_a_one(first, second): return the first or else the second one of both"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for words in product("abcdef", repeat=2):
        name = "_".join(words)
        lines = [f"def {name}_{i}(first):\n    return {name}_{i}\n" for i in range(20)]
        (folder / f"{name}.py").write_text("".join(lines))
    (folder / "quote.py").write_text(f"# one of the texts quotes\n{PROMPT}\n" * 3)
    return folder


@pytest.fixture(scope="module")
def target(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random target with a tokenizer of its own."""
    folder = save_checkpoint(tmp_path_factory.mktemp("target"), vocab_size=300)
    source = (file.read_text() for file in sorted(texts.iterdir()))
    train_tokenizer(source, vocab_size=300).save_pretrained(folder)
    return folder


def stagetree(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def generated(engine: Engine, speculation: Speculation) -> tuple[list[int], Finished]:
    request = GenerateRequest("r", tuple(range(5, 25)), 24, speculation=speculation)
    *steps, finished = engine.generate(request)
    assert isinstance(finished, Finished)
    ids = [t.token_id for step in steps if isinstance(step, Output) for t in step.tokens]
    return ids, finished


def test_a_head_is_trained_compared_and_served_without_changing_the_text(
    target: Path, texts: Path, tmp_path: Path
) -> None:
    """Red when what `train head` writes is no head that the engine loads, or drafts with."""
    out, work = tmp_path / "head", tmp_path / "work"
    common = ("--target", target, "--data", texts, "--work", work, *SMALL)
    drafted = stagetree("train", "draft", "--out", tmp_path / "draft", *common)
    assert drafted.exit_code == 0, drafted.output
    result = stagetree("train", "head", "--out", out, "--compare", tmp_path / "draft", *common)
    assert result.exit_code == 0, result.output
    assert "agreement with the target" in result.output
    rows = [line for line in result.output.splitlines() if "%" in line and "│" not in line]
    assert sum(bool(re.search(r" \d\.\d\d +\d+\.\d\d +\d", row)) for row in rows) == 2
    stages = [{"kind": "head", "model": str(out), "budget": 8}, {"kind": "ngram"}]
    config = {"model": str(target), "dtype": "float32", "stages": stages}
    engine = Engine.load(EngineConfig.from_mapping(config))
    assert engine.info.stages == ("head", "ngram")
    ids, finished = generated(engine, "always")
    assert ids == generated(engine, "off")[0]
    assert finished.stats.stages["head"].num_proposed > 0


def test_a_head_of_the_commonest_tokens_is_served(
    target: Path, texts: Path, tmp_path: Path
) -> None:
    """Red when a small draft vocabulary is lost between training and serving."""
    out = tmp_path / "head"
    data = ("--data", texts, "--draft-vocab", "40", "--steps", "2", *SMALL)
    result = stagetree("train", "head", "--target", target, "--out", out, *data)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "config.json").read_text())["draft_vocab_size"] == 40
    stages = [{"kind": "head", "model": str(out)}]
    config = {"model": str(target), "dtype": "float32", "stages": stages}
    engine = Engine.load(EngineConfig.from_mapping(config))
    assert generated(engine, "always")[0] == generated(engine, "off")[0]


def test_a_target_a_draft_from_its_samples_and_a_table_are_made(
    texts: Path, tmp_path: Path
) -> None:
    """Red when one of the commands fails, or what it writes cannot be served together."""
    target, draft, table = (tmp_path / name for name in ("target", "draft", "table"))
    sizes = ("--vocab-size", "300", "--hidden-size", "32", "--layers", "1")
    data = ("--data", texts)
    made = stagetree("train", "target", "--out", target, *data, *sizes, *SMALL)
    assert made.exit_code == 0, made.output
    sampled = ("--samples", "500", "--hidden-size", "16", "--plain-text")
    made = stagetree("train", "draft", "--target", target, "--out", draft, *data, *sampled, *SMALL)
    assert made.exit_code == 0, made.output
    assert list((tmp_path / "draft.work" / "target-samples").glob("*.npy"))
    built = stagetree("ngram", "build", "--draft", draft, "--out", table, *data, "--tokens", "2000")
    assert built.exit_code == 0, built.output
    assert re.search(r"Kept: the one from (samples|texts)", built.output)
    figures = json.loads((table / "figures.json").read_text())
    assert 0 <= figures["by_samples"] <= 1 and 0 <= figures["by_corpus"] <= 1
    stages = [{"kind": "model", "model": str(draft)}, {"kind": "ngram", "table": str(table)}]
    config = {"model": str(target), "dtype": "float32", "stages": stages}
    engine = Engine.load(EngineConfig.from_mapping(config))
    assert generated(engine, "always")[0] == generated(engine, "off")[0]


def test_texts_that_quote_a_prompt_are_left_out_and_counted(texts: Path, tmp_path: Path) -> None:
    """Red when --exclude-prompts is not heard, or does not say what it left out."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPT}) + "\n")
    sizes = ("--vocab-size", "300", "--hidden-size", "16", "--layers", "1")
    words = ("--data", texts, "--exclude-prompts", prompts, *sizes, *SMALL)
    result = stagetree("train", "target", "--out", tmp_path / "target", *words)
    assert result.exit_code == 0, result.output
    assert "1 quoted a benchmark prompt and were left out" in result.output


def test_ctrl_c_keeps_what_was_learnt_and_the_same_command_goes_on(
    target: Path, texts: Path, tmp_path: Path
) -> None:
    """Red when an interrupt loses steps, or does not say how to go on."""
    program = "from server.cli import app; app()"
    command = [sys.executable, "-c", program, "train", "head", "--target", str(target)]
    command += ["--out", str(tmp_path / "head"), "--data", str(texts), *SMALL[:4]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--minutes", "5"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("head "))
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 130
    assert "the same command goes on" in " ".join(rest.split())
    step = torch.load(tmp_path / "head.work" / "head.pt")["progress"]["step"]
    assert step > 0
    result = stagetree(*command[3:], "--max-steps", step + 2)
    assert result.exit_code == 0, result.output
    assert torch.load(tmp_path / "head.work" / "head.pt")["progress"]["step"] == step + 2


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--target", "TARGET", "--data", "nowhere"), "no such file or folder"),
        (("--target", "no-such-model"), "Give a Hugging Face id, a folder with config.json"),
        (("--target", "TARGET", "--out", "TARGET"), "name another folder with --out"),
        (("--target", "TARGET", "--compare", "no-such-draft"), "cannot load 'no-such-draft'"),
        (("--target", "TARGET", "--exclude-prompts", "nowhere"), '{"prompt": "..."}'),
    ],
)
def test_bad_input_is_one_line_that_names_the_remedy(
    words: tuple[str, ...],
    remedy: str,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when a mistake on the command line ends in a traceback, or after the training."""
    monkeypatch.chdir(tmp_path)
    given = [str(target) if word == "TARGET" else word for word in words]
    out = () if "--out" in words else ("--out", tmp_path / "out")
    result = stagetree("train", "head", *given, *out, *SMALL)
    assert result.exit_code == 2
    assert remedy in " ".join(result.output.split())


def test_a_head_is_no_target_and_a_work_folder_has_one_recipe(
    target: Path, texts: Path, tmp_path: Path
) -> None:
    """Red when a head is trained on a head, or one recipe goes on with another's weights."""
    words = ("--data", texts, "--work", tmp_path / "work", *SMALL)
    head = tmp_path / "head"
    assert stagetree("train", "head", "--target", target, "--out", head, *words).exit_code == 0
    again = stagetree(
        "train", "head", "--target", target, "--out", tmp_path / "other", "--steps", "2", *words
    )
    assert again.exit_code == 2 and "choose another work folder" in " ".join(again.output.split())
    for command in (("train", "head", "--target", head), ("ngram", "build", "--draft", head)):
        flags = words if command[0] == "train" else words[:4]
        result = stagetree(*command, "--out", tmp_path / "third", *flags)
        assert result.exit_code == 2


def test_the_family_is_made_with_a_card_that_says_how(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the command does not reach the family, or its card names another command."""
    recipe = Recipe(5, max_steps=2, batch_tokens=64, lengths=((0.0, 16),))
    plan = replace(
        family_plan(1, 1, 1, 200),
        target=recipe,
        draft=recipe,
        head=recipe,
        samples=SamplePlan(200, num_sequences=8, length=16),
        head_plan=HeadPlan(16, (0, 1, 1)),
        target_shape=llama(290, 16, 1).to_diff_dict(),
        draft_shape=llama(290, 16, 1).to_diff_dict(),
        vocab_size=290,
        sources=(Source("one", "MIT"),),
    )
    for shape in (plan.target_shape, plan.draft_shape):
        shape.pop("vocab_size")
    monkeypatch.setattr(corpus, "_root", lambda package: texts)
    monkeypatch.setattr(train, "family_plan", lambda *budgets: plan)
    out = tmp_path / "family"
    result = stagetree("train", "family", "--out", out, "--target-minutes", "7")
    assert result.exit_code == 0, result.output
    card = (out / "README.md").read_text()
    assert f"    stagetree train family --out {out} --target-minutes 7 --draft" in card
    assert {"target", "draft", "head", "draft2"} <= {path.name for path in out.iterdir()}


def commands_in(document: Path) -> list[list[str]]:
    """The `stagetree train` and `stagetree ngram` commands of a document, as words."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"stagetree ((?:train|ngram) [^`\n]+)", text)
    return [re.split(r"\s+", words.strip()) for words in found]


def test_every_command_and_flag_of_the_walkthrough_exists() -> None:
    """Red when a flag is renamed and docs/training.md is not."""
    document = Path(__file__).parents[2] / "docs" / "training.md"
    commands = commands_in(document)
    assert {tuple(words[:2]) for words in commands} == {
        ("train", "target"),
        ("train", "draft"),
        ("train", "head"),
        ("train", "family"),
        ("ngram", "build"),
    }
    groups = get_command(app).commands
    for group, name, *rest in commands:
        known = {flag for each in groups[group].commands[name].params for flag in each.opts}
        assert {word for word in rest if word.startswith("--")} <= known


def test_home_is_home_where_no_shell_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a folder named ~ is made, or looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    heard: list[tuple[train.TrainOptions, train.DrafterOptions]] = []
    monkeypatch.setattr(train, "train_draft", lambda *given: heard.append(given[:2]))
    words = ["--target=~/m", "--compare=~/d", "--compare=gpt2", "--data=~/a", "--data=~/b"]
    stagetree("train", "draft", *words, "--out=~/o", "--work=~/w")
    [(options, drafter)] = heard
    assert (options.out, options.work) == (tmp_path / "o", tmp_path / "w")
    assert options.data == [tmp_path / "a", tmp_path / "b"]
    assert (drafter.target, drafter.compare) == (f"{tmp_path}/m", [f"{tmp_path}/d", "gpt2"])
