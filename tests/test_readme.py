"""The README cannot drift: what it names exists."""

import re
from pathlib import Path

import pytest

from engine.config import STAGE_KINDS
from server.protocol import CompletionRequest
from server.settings import Settings
from server.sources import ENV_PREFIX

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_it_stays_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("text", [README, GUIDE], ids=["readme", "guide"])
def test_every_file_and_target_it_names_exists(text: str) -> None:
    """Red when a file is moved, or a make target renamed, and the text is not."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    paths = re.findall(r"`((?:engine|server|tests|configs|benchmarks)/[\w./]+)`", text)
    missing = [name for name in (*links, *paths) if not (ROOT / name).exists()]
    assert not missing
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`| {4}|^)make ([a-z]+)", text, re.MULTILINE)
    assert named and set(named) <= set(targets)


def test_every_setting_and_parameter_it_names_exists() -> None:
    variables = set(re.findall(rf"{ENV_PREFIX}([A-Z_]+)", README))
    assert variables
    assert {name.lower() for name in variables} <= set(Settings.names())
    row = next(line for line in README.splitlines() if "POST /v1/completions" in line)
    words = {word for span in re.findall(r"`([a-z_ ]+)`", row) for word in span.split()}
    assert {"prompt", "seed", "speculation"} <= words <= set(CompletionRequest.model_fields)
    assert set(re.findall(r"kind: (\w+)", README)) <= set(STAGE_KINDS)
