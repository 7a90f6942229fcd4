"""`stagetree chat` and `complete`: with a real engine in this process."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from tests.chats import PLAIN
from tests.server.command import FLAGS, save_family


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_family(tmp_path_factory.mktemp("tiny")) / "target")


def run(*words: str, input: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*words, *FLAGS], input=input, env={"COLUMNS": "1000"})
    return result.exit_code, result.output


def test_a_conversation_goes_on_line_by_line(model: str, tmp_path: Path) -> None:
    """Red when a turn is not remembered, or another asks with other tokens than a server would."""
    (tmp_path / "plain.jinja").write_text(PLAIN)
    flags = [
        "--model",
        model,
        "--max-tokens",
        "8",
        "--chat-template",
        str(tmp_path / "plain.jinja"),
    ]
    code, one = run("chat", "hello", *flags)
    assert code == 0 and "tokens per step" in one
    code, two = run("chat", *flags, input="hello\n\nworld\n")
    assert code == 0 and two.count("tokens per step") == 2
    first = one.splitlines()[0]
    assert first and first in two


def test_a_model_without_a_template_is_told_in_one_line(model: str) -> None:
    code, told = run("chat", "hello", "--model", model)
    assert code == 2 and "/v1/completions" in told and "Traceback" not in told


def test_a_prompt_is_printed_and_continued(model: str) -> None:
    """Red when the two commands no longer share how a text is written."""
    code, told = run("complete", "def hello(", "--model", model, "--max-tokens", "8")
    assert code == 0 and told.startswith("def hello(") and "ngram" in told
