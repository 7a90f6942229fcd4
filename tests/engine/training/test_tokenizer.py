"""The byte-level BPE: any text comes back, and code falls into the intended pieces."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from engine.errors import ModelLoadError
from engine.tokenizer import load_tokenizer
from engine.training.tokenizer import END_OF_TEXT, pack, train_tokenizer

SOURCE = 'def add(first, second):\n    """Add two."""\n    return first + second\n\n\n' * 20


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([SOURCE], vocab_size=280)


@given(text=st.text())
def test_any_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Red when a byte has no token or a piece of text falls between the patterns."""
    encoded = text.encode("utf-8", "replace").decode()
    ids = tokenizer.encode(encoded, split_special_tokens=True)
    assert tokenizer.decode(ids) == encoded


@given(text=st.text("ab_(): \t\n\r09é", max_size=40))
def test_code_shaped_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Red when whitespace is merged, stripped or reordered."""
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_prompt_may_end_after_a_newline_or_an_indentation(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Red when a prompt cut at a line has other tokens than the same place in a whole file."""
    whole = tokenizer.encode(SOURCE)
    for prompt in ("def add(first, second):\n", "def add(first, second):\n    "):
        ids = tokenizer.encode(prompt)
        assert ids == whole[: len(ids)]


def test_texts_are_packed_with_an_end_each(tokenizer: PreTrainedTokenizerFast) -> None:
    """Red when files run into each other."""
    stream = pack(tokenizer, ["return first", "second"])
    end = tokenizer.eos_token_id
    assert end == tokenizer.bos_token_id == tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    texts = np.split(stream, np.flatnonzero(stream == end) + 1)
    assert [tokenizer.decode(t, skip_special_tokens=True) for t in texts[:-1]] == [
        "return first",
        "second",
    ]


def test_a_saved_tokenizer_loads_in_hugging_face_layout(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Red when the files on disk mean something else than the object in memory."""
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(SOURCE) == tokenizer.encode(SOURCE)
    assert loaded.eos_token == END_OF_TEXT
    assert len(loaded) == 280


def test_a_tokenizer_without_an_end_of_text_packs_texts_alone(tmp_path: Path) -> None:
    """Red when a missing end becomes an id of its own."""
    nameless = train_tokenizer([SOURCE], vocab_size=280)
    nameless.eos_token = None
    stream = pack(nameless, ["return first", "second"])
    assert nameless.decode(stream) == "return firstsecond"


def test_a_missing_or_slow_tokenizer_is_named(tmp_path: Path) -> None:
    """Red when a folder without a tokenizer ends in a traceback of a library."""
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
