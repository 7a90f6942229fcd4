"""The flags of the command, which come from the settings."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server import options
from server.cli import app
from server.settings import Settings


def shown(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output


def test_every_flag_is_a_setting_and_is_told_by_its_type_and_its_help() -> None:
    """Red when a flag has another name or type than its setting, or no word of help."""
    assert set(options.HELP) <= set(Settings.names())
    told = shown("serve")
    for name, said in options.HELP.items():
        flag = "model" if name == "model" else f"--{name.replace('_', '-')}"
        assert re.search(rf"{flag} .*{re.escape(said)}", told), name
    for flag, kind in [
        ("--dtype", r"<auto\|float32\|bfloat16\|float16\|int8\|int4>"),
        ("--max-model-len", "<int>"),
        ("--port", "<int>"),
        ("--drain-seconds", "<float>"),
        ("--api-key", "<str>"),
        ("--devices", "<str>"),
        ("--log-level", r"<debug\|info\|warning\|error>"),
    ]:
        assert re.search(rf"{flag} +{kind} ", told), flag


@pytest.mark.parametrize("command", ["complete", "bench", "doctor"])
def test_every_command_that_loads_models_takes_the_same_flags(command: str) -> None:
    told = shown(command)
    for name in ("config", *options.MODEL_FLAGS):
        assert f"--{name} " in told
    assert "--port" not in told


def test_what_is_given_wins_and_what_is_not_is_left_to_other_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when a flag that nobody gave overrules the environment."""
    seen: list[Any] = []

    @options.with_settings("model", "port", "threads")
    def command(settings: Settings, word: str) -> None:
        seen.append((word, settings))

    monkeypatch.setenv("STAGETREE_PORT", "2")
    monkeypatch.setenv("STAGETREE_THREADS", "3")
    command(config=None, model="gpt2", port=None, threads=1, word="w")
    [(word, settings)] = seen
    assert (word, settings.engine.model, settings.port) == ("w", "gpt2", 2)
    assert settings.engine.threads == 1


@pytest.mark.parametrize("command", ["serve", "chat", "bench", "doctor", "fit"])
def test_a_template_that_is_none_is_told_before_anything_is_loaded(
    command: str, tmp_path: Path
) -> None:
    """Red when a command loads a model first, or ends in a traceback."""
    (tmp_path / "broken.jinja").write_text("{% if %}")
    words = [command, *(["gpt2"] if command in ("serve", "fit") else ["--model", "gpt2"])]
    found = CliRunner().invoke(app, [*words, "--chat-template", str(tmp_path / "broken.jinja")])
    assert found.exit_code == 2 and "it is no Jinja template" in found.stderr


@pytest.mark.parametrize("command", ["complete", "chat"])
def test_a_temperature_is_as_high_as_over_http(command: str) -> None:
    """Red when the terminal refuses what the server takes."""
    assert "0<=x<=100" in re.sub(r"\s", "", shown(command))
