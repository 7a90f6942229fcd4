"""What fits a target: pairs with the answers stated before, the table, and the arithmetic."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from engine.benchmark import break_even, fit_of, gain_of
from engine.errors import ModelLoadError
from engine.public import public_drafts, public_names
from tests.checkpoints import make_head_weights, make_network, save_checkpoint, save_head_checkpoint

NUM_TOKENS = 64
SMALL = {"num_hidden_layers": 1}
WORDS = [f"word{number}" for number in range(NUM_TOKENS)]


def save_words(folder: Path, words: Sequence[str] = WORDS) -> None:
    vocabulary = {word: number for number, word in enumerate(words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token=words[0])).save(str(folder / "tokenizer.json"))


def model(folder: Path, words: Sequence[str] = WORDS, **shape: int) -> Path:
    save_checkpoint(folder, vocab_size=len(words), **shape)
    save_words(folder, words)
    return folder


def head(folder: Path, **changes: object) -> Path:
    config, weights = make_head_weights(make_network())
    return save_head_checkpoint(folder, {**config, **changes}, weights)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of 64 tokens, 2 layers and 32 units, and a draft for each expected answer."""
    at = tmp_path_factory.mktemp("pairs")
    model(at / "target")
    model(at / "sibling", **SMALL)
    shutil.copytree(at / "sibling", at / "another-name")
    model(at / "other-words", [*WORDS[:3], *reversed(WORDS[3:])], **SMALL)
    save_words(model(at / "one-token-less", **SMALL), WORDS[:-1])
    model(at / "twice-the-tokens", [*WORDS, *(f"more{i}" for i in range(64))], **SMALL)
    save_checkpoint(at / "no-tokenizer", vocab_size=NUM_TOKENS, **SMALL)
    model(at / "larger", num_hidden_layers=4)
    head(at / "head")
    head(at / "wide-head", target_hidden_size=48)
    head(at / "deep-head", eagle_aux_hidden_state_layer_ids=[1, 2, 9])
    head(at / "small-head", vocab_size=32)
    (at / "nothing").mkdir()
    (at / "nothing" / "notes.json").write_text(json.dumps({}))
    return at


ANSWERS = {
    "sibling": "",
    "another-name": "",
    "one-token-less": "",
    "no-tokenizer": "",
    "head": "",
    "target": "it is the target itself",
    "other-words": "of 64 token ids 60 mean something else, the first of them 3, 'word63' for",
    "twice-the-tokens": "it has 128 tokens and the target 64",
    "larger": r"it has 1\.\d times the weights of the target",
    "wide-head": "it reads hidden states of 48 units, and the target's have 32",
    "deep-head": r"it reads the layers \(1, 2, 9\) of a target that has 2",
    "small-head": "it knows 32 tokens and the target 64",
    "nothing": "holds no config.json",
}


@pytest.mark.parametrize("draft", ANSWERS)
def test_each_pair_gets_the_answer_that_was_stated_before(pairs: Path, draft: str) -> None:
    """Red when a sibling is refused for its name, or a stranger taken for its size."""
    found = fit_of(str(pairs / draft), str(pairs / "target"))
    assert found.kind == ("head" if "head" in draft else "model")
    if ANSWERS[draft]:
        assert len(found.reasons) == 1 and not found.fits
        assert re.search(ANSWERS[draft], found.reasons[0])
    else:
        assert found.fits and found.reasons == ()


def test_the_share_of_a_draft_is_that_of_its_weights(pairs: Path) -> None:
    """Red when weights are counted in another network than the one that was named."""
    found = fit_of(str(pairs / "sibling"), str(pairs / "target"))
    counts = [
        sum(weight.numel() for weight in make_network(vocab_size=64, **shape).parameters())
        for shape in (SMALL, {})
    ]
    assert found.share == pytest.approx(counts[0] / counts[1])


def test_what_cannot_be_looked_up_is_told_as_such(pairs: Path) -> None:
    """Red when a machine without a network says of a draft that it does not fit."""
    found = fit_of("nobody/has-this", str(pairs / "target"))
    assert not found.was_read and not found.fits and found.reasons


def test_a_target_that_is_not_there_is_no_answer() -> None:
    """Red when a misspelt target makes every draft look wrong."""
    with pytest.raises(ModelLoadError, match="there is no folder"):
        fit_of("a-draft", "./not-there")


WRITTEN = """
meta-llama/Llama-3.1-8B-Instruct meta-llama/Llama-3.3-70B-Instruct lmsys/vicuna-13b-v1.3
deepseek-ai/DeepSeek-R1-Distill-Llama-8B Qwen/Qwen3-0.6B Qwen/Qwen3-1.7B Qwen/Qwen3-4B Qwen/Qwen3-8B
Qwen/Qwen3-14B Qwen/Qwen3-32B yuhuili/EAGLE3-LLaMA3.1-Instruct-8B
yuhuili/EAGLE3-LLaMA3.3-Instruct-70B yuhuili/EAGLE3-Vicuna1.3-13B
yuhuili/EAGLE3-DeepSeek-R1-Distill-LLaMA-8B RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3
RedHatAI/Llama-3.3-70B-Instruct-speculator.eagle3 RedHatAI/Qwen3-8B-speculator.eagle3
RedHatAI/Qwen3-14B-speculator.eagle3 RedHatAI/Qwen3-32B-speculator.eagle3
AngelSlim/Qwen3-1.7B_eagle3 AngelSlim/Qwen3-4B_eagle3 AngelSlim/Qwen3-8B_eagle3
AngelSlim/Qwen3-14B_eagle3 AngelSlim/Qwen3-32B_eagle3 Tengyunw/qwen3_8b_eagle3
Qwen/Qwen2.5-0.5B-Instruct Qwen/Qwen2.5-1.5B-Instruct Qwen/Qwen2.5-3B-Instruct
Qwen/Qwen2.5-7B-Instruct Qwen/Qwen2.5-14B-Instruct Qwen/Qwen2.5-32B-Instruct
meta-llama/Llama-3.2-1B-Instruct meta-llama/Llama-3.2-3B-Instruct google/gemma-2-2b-it
google/gemma-2-9b-it google/gemma-2-27b-it google/gemma-3-270m-it google/gemma-3-1b-it
google/gemma-3-4b-it google/gemma-3-12b-it mistralai/Mistral-7B-Instruct-v0.3
mistralai/Mistral-Large-Instruct-2407
microsoft/Phi-3-mini-4k-instruct microsoft/Phi-3-medium-4k-instruct smollm2
HuggingFaceTB/SmolLM2-135M-Instruct HuggingFaceTB/SmolLM2-360M-Instruct
HuggingFaceTB/SmolLM2-1.7B-Instruct distilgpt2 gpt2 gpt2-medium gpt2-large gpt2-xl
"""


def test_the_table_has_the_names_that_were_written_down_and_no_others() -> None:
    """Red when a name is mistyped, or added without having been looked up."""
    assert public_names() == set(WRITTEN.split())


def test_heads_come_first_and_siblings_by_size_and_none_that_is_large() -> None:
    """Red when a model is told to draft for a smaller one, or for itself."""
    known = public_drafts("Qwen/Qwen3-1.7B")
    assert [(each.name, each.kind) for each in known] == [
        ("AngelSlim/Qwen3-1.7B_eagle3", "head"),
        ("Qwen/Qwen3-0.6B", "model"),
    ]
    assert known[1].share == pytest.approx(600 / 1700)
    assert public_drafts("smollm2") == public_drafts("of-nobody/known") == ()


def test_a_chain_is_worth_what_the_papers_arithmetic_says() -> None:
    """Red when the bonus token is left out, or a draft's passes are counted once."""
    free = gain_of(lambda rows: 1.0, 0.0, 1.0)
    assert free == (9.0, 8)
    one = gain_of(lambda rows: float(rows > 1) + 1, 0.0, 0.5)
    assert one == (1.0, 0)
    dear = gain_of(lambda rows: 1.0, 0.25, 0.5)
    lengths = {k: (2 - 0.5**k) / (1 + 0.25 * k) for k in range(1, 9)}
    assert dear.ratio == pytest.approx(max(lengths.values())) and lengths[dear.length] == dear.ratio


def test_the_break_even_is_the_least_acceptance_that_pays() -> None:
    """Red when it is told from the best case, or a draft that never pays gets one."""
    assert break_even(lambda rows: 1.0, 0.255) == 0.26
    assert break_even(lambda rows: float(rows), 0.1) is None
