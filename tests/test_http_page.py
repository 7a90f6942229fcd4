"""The page of the HTTP API names what there is, all of it, and tests that are there."""

import re
from pathlib import Path

from server.app import create_app
from server.engines import EnginePool
from server.protocol import CompletionRequest
from server.protocol.foreign import ALIASES, HARMLESS, NEUTRAL
from server.protocol.infill import InfillRequest
from server.settings import Settings
from server.text.infill import FAMILIES

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "http.md").read_text()
NAMED = set(re.findall(r"`([\w.{}/?=]+)`", PAGE))


def test_it_has_every_parameter_and_every_name_of_the_tables() -> None:
    """Red when a parameter is added without a line there, or a name is taken out."""
    fields = {*CompletionRequest.model_fields, *InfillRequest.model_fields}
    assert fields <= NAMED
    assert {*ALIASES, *HARMLESS, *NEUTRAL} <= NAMED


def test_every_neutral_value_is_told() -> None:
    """Red when a value is accepted that the table does not have, or the other way round."""
    told = {"0": 0, "1": 1, "\u22121": -1, "false": False, "true": True, "[]": [], '""': ""}
    told |= {"{}": {}}
    rows = re.findall(r"^\| ((?:`\w+` ?)+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    parted = {names: re.split(r", (?=\u2212)", cell.strip()) for names, cell in rows}
    values = {
        name: [told[word] for word in words if word != "null"]
        for names, words in parted.items()
        for name in re.findall(r"`(\w+)`", names)
    }
    assert {name: [*neutral] for name, neutral in NEUTRAL.items()} == {
        name: values.get(name) for name in NEUTRAL
    }


def test_every_test_and_setting_that_it_names_exists() -> None:
    """Red when a test is renamed, and what the page claims is proved by nothing."""
    proofs = re.findall(r"`(server/\w+\.py)::(\w+)`", PAGE)
    assert len(proofs) > 20
    for file, test in proofs:
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(), test
    settings = {"api_key", "api_key_file", "allow_origin", "fim_template", "max_logprobs"}
    settings |= {"stream_wait_seconds", "keep_alive_seconds", "default_max_tokens"}
    assert settings <= {*Settings.names()}
    assert all(setting in PAGE for setting in settings)


def test_every_endpoint_is_named_there_or_on_the_page_of_its_api() -> None:
    """Red when an endpoint is added that no page tells of."""
    settings = Settings(model="fake")  # type: ignore[call-arg]
    told = "".join(page.read_text() for page in DOCS.glob("*.md"))
    for path in create_app(settings, EnginePool(settings, [])).openapi()["paths"]:
        named = path.replace("{model_id}", "{id}")
        assert re.search(rf"[ `]{re.escape(named)}[`?]", told), path


def test_every_family_of_fill_in_the_middle_is_there() -> None:
    for template in FAMILIES:
        for word in re.split(r"\{\w+\}", template):
            assert not word or f"`{word.replace('|', chr(92) + '|')}`" in PAGE, word
