"""The page about agents names every field that their APIs have, and tests that are there."""

import json
import re
import tomllib
from pathlib import Path

import yaml

from server.protocol import TextRequest
from server.protocol.anthropic import MessagesRequest
from server.protocol.foreign import HARMLESS
from server.protocol.responses import ResponsesRequest
from server.settings import Settings

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "agents.md").read_text()


def test_it_has_every_field_and_every_name_that_has_no_effect() -> None:
    """Red when a field is added without a line there, or a name is taken out."""
    named = set(re.findall(r"`([\w-]+)`", PAGE))
    for kind in (ResponsesRequest, MessagesRequest):
        own = {*kind.model_fields} - {*TextRequest.model_fields}
        more = {*kind.unsupported} - {*TextRequest.unsupported} - {"modalities", "audio"}
        chats = {"logprobs", "top_logprobs", "echo", "best_of", "prompt_logprobs"}
        assert own | (kind.harmless - HARMLESS) | (more - chats) <= named


def test_every_test_that_it_names_exists() -> None:
    """Red when a test is renamed, and what the page claims is proved by nothing."""
    proofs = re.findall(r"`(server/\w+\.py)::(\w+)`", PAGE)
    assert len(proofs) > 25
    for file, test in proofs:
        assert f"def {test}(" in (TESTS / file).read_text(), test


def test_the_settings_that_it_shows_can_be_read() -> None:
    """Red when what a user copies is no JSON, TOML or YAML, or names a setting that is none."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    readers = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
    assert {kind for kind, _ in blocks} == {"python", *readers}
    for kind, text in blocks:
        if kind in readers:
            assert readers[kind](text)
    assert {"served_model_name", "api_key"} <= {*Settings.names()}
