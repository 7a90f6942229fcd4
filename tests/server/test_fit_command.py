"""`stagetree fit` from its flags to what it says, on a tiny random family."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.greeting import drafts_of
from tests.checkpoints import save_checkpoint
from tests.server.fakes import byte_level_tokenizer


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, a smaller model of its tokenizer, and one of other sizes."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, shape in (
        ("target", {"vocab_size": 320}),
        ("draft", {"vocab_size": 320, "num_hidden_layers": 1}),
        ("stranger", {"vocab_size": 64}),
    ):
        save_checkpoint(folder / name, bos_token_id=0, eos_token_id=0, **shape)
    byte_level_tokenizer().inner.save(str(folder / "target" / "tokenizer.json"))
    return folder


def told(family: Path, *arguments: str) -> str:
    """What the command says in this process, in one line."""
    flags = ("--dtype", "float32", "--tokens", "8")
    given = ["fit", str(family / "target"), *flags, *arguments]
    result = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_what_fits_is_measured_and_what_does_not_is_told_why(family: Path) -> None:
    """Red when a draft that does not fit is loaded, or one that does is left out."""
    drafts = [word for name in ("draft", "stranger") for word in ("--draft", str(family / name))]
    text = told(family, *drafts)
    assert f"{family / 'draft'} fits." in text
    assert f"{family / 'stranger'} does not fit: it has 64 tokens and the target 320." in text
    _, _, table = text.partition("on a sample at T = 0")
    for mode in ("plain", "look-up alone", str(family / "draft")):
        assert mode in table
    assert str(family / "stranger") not in table and "chosen: " in table
    assert "No other public draft is known for" in table


def test_a_server_without_a_draft_says_what_is_known() -> None:
    """Red when the line names drafts of another model, or keeps the command to itself."""
    assert drafts_of("Qwen/Qwen3-8B").startswith("no draft: known for Qwen/Qwen3-8B: AngelSlim/")
    assert "Qwen/Qwen3-0.6B" in drafts_of("Qwen/Qwen3-8B")
    told = drafts_of("./mine")
    assert "`stagetree fit ./mine`" in told and "none is known" in told
