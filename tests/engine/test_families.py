"""docs/families.md is what is found: every family that is served is what it is in transformers."""

from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.families import PAGE, find, findings, page


def _is_of_this_release() -> bool:
    return f"transformers {transformers.__version__} " in PAGE.read_text()


def _verdicts(text: str) -> dict[str, str]:
    """What a page says of each family; why it says so is told in other releases' words."""
    table = text.split("|---|---|---|\n")[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {name: verdict.removesuffix(" |") for name, verdict, *_ in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_every_family_is_equal_to_stock_transformers_or_refused() -> None:
    """Red when a family is served that scores or writes otherwise, in any release; and, in that of
    the page, when the page says otherwise: `python -m tests.families > docs/families.md`."""
    differing = [finding for finding in findings() if finding.verdict == "differs"]
    assert not differing
    if _is_of_this_release():
        found, told = _verdicts(page()), _verdicts(PAGE.read_text())
        untried = {name for name in found if "not tried" in (found[name], told.get(name))}
        assert {k: v for k, v in found.items() if k not in untried} == {
            k: v for k, v in told.items() if k not in untried
        }


def test_the_page_has_a_row_for_every_family_of_its_release() -> None:
    """Red when a release is pinned and the page is that of another."""
    if not _is_of_this_release():
        pytest.skip("the page is of another release of transformers")
    families = {name.split(" (")[0] for name in _verdicts(PAGE.read_text())}
    assert families == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "form"),
    [("gemma4_text", "shared rows"), ("phimoe", "longrope"), ("qwen2_moe", "")],
)
def test_what_is_hardest_to_follow_is_followed(family: str, form: str, tmp_path: Path) -> None:
    """Red, without waiting for the slow test, when rows that no logits need are left out and a
    mask has them, when a boundary of lengths is missed, or a window that only a mask knows."""
    assert find(family, form, tmp_path).verdict == "equal"
