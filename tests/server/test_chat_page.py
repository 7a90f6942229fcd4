"""The page about chat names every field that chats alone have, and tests that are there."""

import re
from pathlib import Path

from server.message import STYLES
from server.protocol import ChatRequest, CompletionRequest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "chat.md").read_text()


def test_it_has_every_field_and_every_style() -> None:
    """Red when a field or a parser is added without a line there."""
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert {*ChatRequest.model_fields} - {*CompletionRequest.model_fields} <= named
    assert {*STYLES} <= named


def test_every_test_that_it_names_exists() -> None:
    """Red when a test is renamed, and what the page claims is proved by nothing."""
    proofs = re.findall(r"`(server/\w+\.py)::(\w+)`", PAGE)
    assert len(proofs) > 15
    for file, test in proofs:
        assert f"def {test}(" in (TESTS / file).read_text(), test
