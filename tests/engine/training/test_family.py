"""The whole family, made from a handful of files in a few steps, then made again from its work."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from engine.api import Engine
from engine.config import EngineConfig
from engine.drafting.katz import KatzTable
from engine.training import Family, FamilyPlan, corpus, family_plan
from engine.training.corpus import Source
from engine.training.recipe import Recipe
from engine.training.sample import SamplePlan
from engine.training.shapes import HeadPlan
from engine.training.trainer import Report, unheard

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
RECIPE = Recipe(minutes=5, max_steps=3, batch_tokens=64, lengths=((0.0, 16),), measure_every=2)
PLAN = FamilyPlan(
    target=RECIPE,
    draft=RECIPE,
    head=RECIPE,
    samples=SamplePlan(num_tokens=200, num_sequences=8, length=16),
    target_shape=SHAPE,
    draft_shape={**SHAPE, "hidden_size": 8},
    head_plan=HeadPlan(intermediate_size=16, layers=(0, 1, 1), num_steps=2),
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


def unwatched(name: str, recipe: Recipe) -> Report:
    return unheard


def test_the_family_is_made_once_and_exported_whole(plan: FamilyPlan, tmp_path: Path) -> None:
    """Red when a member is missing, cannot be loaded, or is trained anew by a second run."""
    heard: list[str] = []
    out, work = tmp_path / "out", tmp_path / "work"

    def say(what: str, share: float) -> None:
        heard.append(what)

    facts = Family(plan, work, say, unwatched).export(out, "the command")
    target, draft = (AutoModelForCausalLM.from_pretrained(out / n) for n in ("target", "draft"))
    assert target.config.vocab_size == draft.config.vocab_size == 290
    assert KatzTable.load(out / "draft2").vocab_size == 290
    assert facts.target.num_steps == facts.head.model.num_steps == 3
    assert len(facts.head.agreement) == 2
    assert facts.streams.held_out_files > 0
    assert {"sampling from the draft", "counting the corpus"} <= set(heard)
    again = Family(plan, work, say, unwatched).export(out, "the command")
    assert again == replace(facts, target=again.target, draft=again.draft, head=again.head)
    assert again.target.loss == pytest.approx(facts.target.loss)
    assert again.head.agreement == pytest.approx(facts.head.agreement)


def test_the_engine_loads_the_family_with_its_head(plan: FamilyPlan, tmp_path: Path) -> None:
    """Red when the head that is written is no head of the target that is written beside it."""
    Family(plan, tmp_path / "work", lambda what, share: None, unwatched).export(tmp_path, "")
    stages = [{"kind": "head", "model": str(tmp_path / "head")}, {"kind": "ngram"}]
    config = {"model": str(tmp_path / "target"), "dtype": "float32", "stages": stages}
    engine = Engine.load(EngineConfig.from_mapping(config))
    assert engine.info.stages == ("head", "ngram")


def test_the_card_states_what_was_measured(plan: FamilyPlan, tmp_path: Path) -> None:
    """Red when the card leaves out a source, a loss, an agreement or the command."""
    family = Family(plan, tmp_path / "work", lambda what, share: None, unwatched)
    facts = family.export(tmp_path / "out", "the command")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| one | MIT | 100% |" in card
    assert f"{facts.target.loss:.3f}" in card
    assert f"| draft and target | {facts.agreement:.1%} |" in card
    assert f"| head and target, 2 ahead | {facts.head.agreement[1]:.1%} |" in card
    assert "    the command\n" in card
    assert "benchmark prompt were left out: 0." in card


def test_the_plan_that_ships_spends_the_minutes_it_is_given() -> None:
    """Red when a budget of the command line reaches another member, or none."""
    plan = family_plan(1.0, 2.0, 3.0, 4, ["prompt"], is_compiled=True, is_draft_distilled=True)
    assert (plan.target.minutes, plan.draft.minutes, plan.head.minutes) == (1.0, 2.0, 3.0)
    assert plan.samples.num_tokens == 4
    assert plan.prompts == ("prompt",)
    assert plan.is_draft_distilled and plan.head.is_compiled
