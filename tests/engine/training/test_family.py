"""The whole family, made from a handful of files in a few steps, then made again from its work."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from engine.drafting.katz import KatzTable
from engine.training import corpus
from engine.training.corpus import Source
from engine.training.family import Family, FamilyPlan
from engine.training.pretrain import Recipe
from engine.training.sample import SamplePlan

SHAPE: dict[str, object] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
RECIPE = Recipe(minutes=5, max_steps=3, batch_tokens=64, lengths=((0.0, 16),), report_every=2)
PLAN = FamilyPlan(
    target=RECIPE,
    draft=RECIPE,
    samples=SamplePlan(num_tokens=200, num_sequences=8, length=16),
    target_shape=SHAPE,
    draft_shape={**SHAPE, "hidden_size": 8},
    vocab_size=290,
    table_bytes=20_000,
    sources=(Source("one", "MIT"),),
    prompts=("def prompt(of, the, benchmark):",),
)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FamilyPlan:
    monkeypatch.setattr(corpus, "_root", lambda package: tmp_path / package)
    (tmp_path / "one").mkdir()
    for words in product("abcdefgh", repeat=3):
        name = "_".join(words)
        lines = "".join(f"def {name}_{i}(first):\n    return {name}\n" for i in range(40))
        (tmp_path / "one" / f"{name}.py").write_text(lines)
    return PLAN


def test_the_family_is_made_once_and_exported_whole(plan: FamilyPlan, tmp_path: Path) -> None:
    """Red when a member is missing, cannot be loaded, or is trained anew by a second run."""
    reports: list[str] = []
    out = tmp_path / "out"
    facts = Family(plan, tmp_path / "work", reports.append).export(out, "the command")
    target, draft = (AutoModelForCausalLM.from_pretrained(out / n) for n in ("target", "draft"))
    assert target.config.vocab_size == draft.config.vocab_size == 290
    assert KatzTable.load(out / "draft2").vocab_size == 290
    assert facts.target.num_steps == 3
    assert facts.streams.held_out_files > 0
    again = Family(plan, tmp_path / "work", reports.append).export(out, "the command")
    assert again == replace(facts, target=again.target, draft=again.draft)
    assert again.target.loss == pytest.approx(facts.target.loss)


def test_the_card_states_what_was_measured(plan: FamilyPlan, tmp_path: Path) -> None:
    """Red when the card leaves out a source, a loss, an agreement or the command."""
    out = tmp_path / "out"
    facts = Family(plan, tmp_path / "work", lambda line: None).export(out, "the command")
    card = (out / "README.md").read_text()
    assert "| one | MIT | 100% |" in card
    assert f"{facts.target.loss:.3f}" in card
    assert f"| draft and target | {facts.agreement:.1%} |" in card
    assert "    the command\n" in card
    assert "benchmark prompt were left out" in card
