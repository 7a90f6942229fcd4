"""The family that ships: complete, small, of one vocabulary, and better than chance at Python."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import engine
from engine.config import EngineConfig
from engine.drafting.build import StageBuilder
from engine.drafting.head_network import HeadNetwork
from engine.drafting.katz import KatzTable
from engine.loading import load_model
from engine.model import Model
from engine.tokenizer import load_tokenizer
from engine.training.head import TrainingTimeTest
from engine.training.measure import model_agreement, table_agreement
from engine.training.objectives import mean_loss

EMBEDDED = Path(engine.__file__).parent / "embedded"
MODELS = ("target", "draft")


@cache
def load(name: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        EMBEDDED / name, dtype=torch.float32
    )
    return model


@cache
def unseen_source() -> torch.Tensor:
    """Python that the family was not trained on, ids [1, 513]."""
    text = Path(__file__).with_name("test_trainer.py").read_text()
    ids = load_tokenizer(EMBEDDED / "target").encode(text)
    return torch.tensor([ids[:513]])


@cache
def load_head() -> HeadNetwork:
    head = StageBuilder(EngineConfig("embedded/target", dtype="float32"), target_scorer())
    return head.head("embedded/head").network


@cache
def target_scorer() -> Model:
    return load_model(
        "embedded/target", dtype="float32", device="cpu", max_model_len=None, chunk=512
    )


def test_the_family_is_small_enough_to_ship() -> None:
    """Red when the folder outgrows 64 MB or a file outgrows 16 MiB."""
    sizes = [file.stat().st_size for file in EMBEDDED.rglob("*") if file.is_file()]
    assert sum(sizes) <= 64e6
    assert max(sizes) < 16 * 2**20


def test_the_target_is_a_small_llama_and_its_drafters_are_smaller() -> None:
    """Red when a shape leaves the range in which a laptop can serve and a drafter can pay."""
    target, draft = map(load, MODELS)
    assert target.config.model_type == draft.config.model_type == "llama"
    assert 14e6 <= target.num_parameters() <= 30e6
    assert 10 <= target.num_parameters() / draft.num_parameters() <= 20
    shared = ("embed_tokens.weight", "lm_head.weight")
    own = sum(p.numel() for n, p in load_head().named_parameters() if n not in shared)
    assert own < target.num_parameters() / 5


def test_all_members_share_one_vocabulary() -> None:
    """Red when a token means one thing to one member and another to the next."""
    texts = [(EMBEDDED / name / "tokenizer.json").read_text() for name in MODELS]
    assert texts[0] == texts[1]
    tokenizer = load_tokenizer(EMBEDDED / "target")
    table = KatzTable.load(EMBEDDED / "draft2")
    assert len(tokenizer) == table.vocab_size
    assert {load(name).config.vocab_size for name in MODELS} == {table.vocab_size}
    assert {load(name).config.eos_token_id for name in MODELS} == {tokenizer.eos_token_id}


@pytest.mark.parametrize("text", ["def f(x):\n\treturn x\r\n", "naïve 🐍 \x00 \u202e", "  \n \n"])
def test_its_tokenizer_round_trips(text: str) -> None:
    """Red when the tokenizer that ships loses a byte."""
    tokenizer = load_tokenizer(EMBEDDED / "target")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_member_beats_the_one_below_on_unseen_python() -> None:
    """Red when weights are damaged, untrained, or paired with another tokenizer."""
    target, draft = (mean_loss(load(name), [unseen_source()]) for name in MODELS)
    assert target < draft < 0.7 * math.log(8192)


def test_the_stages_often_agree_on_unseen_python() -> None:
    """Red when the draft or the table was made for another target."""
    target, draft = map(load, MODELS)
    table = KatzTable.load(EMBEDDED / "draft2")
    assert model_agreement(draft, target, [unseen_source()]) > 0.35
    assert table_agreement(table, draft, [unseen_source()]) > 0.25
    ahead = TrainingTimeTest(load_head(), target, num_steps=3).held_out([unseen_source()])
    assert ahead.agreement[0] > 0.5
    assert min(ahead.agreement) > 0.4


def test_the_card_says_what_the_family_is() -> None:
    """Red when the card no longer states its nature, data, licence or command."""
    card = (EMBEDDED / "README.md").read_text()
    for words in ("demonstration", "held out", "PSF-2.0", "stagetree train family"):
        assert words in card
