"""The Katz table: a distribution in every context, the same one however it is asked or stored."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.drafting.katz import FILE_NAME, KatzTable
from engine.drafting.katz_build import count_ngrams
from engine.errors import ModelLoadError

Text = list[int]


@st.composite
def texts_and_vocab(draw: st.DrawFn) -> tuple[list[Text], int]:
    vocab_size = draw(st.integers(1, 12))
    text = st.lists(st.integers(0, vocab_size - 1), max_size=60)
    return draw(st.lists(text, max_size=6)), vocab_size


@st.composite
def tables(draw: st.DrawFn) -> KatzTable:
    texts, vocab_size = draw(texts_and_vocab())
    return KatzTable.build(
        texts,
        vocab_size,
        max_continuations=draw(st.integers(1, 6)),
        min_count=draw(st.integers(1, 2)),
        max_bytes=draw(st.none() | st.integers(0, 2000)),
    )


def all_contexts(table: KatzTable) -> Iterator[tuple[int, int]]:
    for last in range(table.vocab_size):
        for before in range(-1, table.vocab_size):
            yield before, last


@given(tables())
def test_every_context_has_a_distribution(table: KatzTable) -> None:
    """Red when a back-off weight does not match what is stored, seen context or not."""
    for before, last in all_contexts(table):
        total = sum(math.exp(table.logprob(before, last, t)) for t in range(table.vocab_size))
        assert total == pytest.approx(1.0, abs=1e-5)


@given(tables())
def test_continuations_are_the_best_tokens_in_order(table: KatzTable) -> None:
    """Red when a list is unsorted, disagrees with `logprob`, or misses a better token."""
    for before, last in all_contexts(table):
        tokens, logprobs = table.continuations(before, last)
        everything = [table.logprob(before, last, t) for t in range(table.vocab_size)]
        assert list(logprobs) == pytest.approx([everything[t] for t in tokens])
        best = sorted(everything, reverse=True)[: table.max_continuations]
        assert list(logprobs) == pytest.approx(best)
        assert len(set(tokens)) == len(tokens)


@given(table=tables())
def test_a_saved_table_answers_alike(
    tmp_path_factory: pytest.TempPathFactory, table: KatzTable
) -> None:
    """Red when an array is misplaced, misaligned or changed on its way through the file."""
    folder = tmp_path_factory.mktemp("table")
    table.save(folder)
    loaded = KatzTable.load(folder / FILE_NAME)
    assert loaded.vocab_size == table.vocab_size
    for before, last in all_contexts(table):
        assert loaded.continuations(before, last) == table.continuations(before, last)


@given(tables(), st.integers(1, 12), st.data())
def test_any_table_serves_a_vocabulary_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, table: KatzTable, num_ids: int, data: st.DataObject
) -> None:
    """Red when an unknown context breaks the look-up, or an id is named that the target lacks."""
    folder = tmp_path_factory.mktemp("table")
    table.save(folder)
    fitted = KatzTable.load(folder, num_ids)
    ids = st.integers(0, 2 * table.vocab_size)
    before, last = data.draw(ids | st.just(-1)), data.draw(ids)
    tokens, logprobs = fitted.continuations(before, last)
    everything = [table.logprob(before, last, t) for t in range(min(num_ids, table.vocab_size))]
    assert list(logprobs) == pytest.approx([everything[token] for token in tokens])
    assert tokens and len(set(tokens)) == len(tokens)
    if num_ids >= table.vocab_size:
        best = sorted(everything, reverse=True)[: table.max_continuations]
        assert list(logprobs) == pytest.approx(best)


def test_what_was_seen_comes_first() -> None:
    """Red when the trigram does not win over the bigram that contradicts it."""
    table = KatzTable.build([[1, 2, 3] * 9 + [5, 2, 4] * 3], 8)
    assert table.continuations(1, 2)[0][0] == 3
    assert table.continuations(5, 2)[0][0] == 4


def test_an_unseen_pair_backs_off_to_the_last_token() -> None:
    """Red when an unseen context, or a missing one, is not answered by the bigram."""
    table = KatzTable.build([[1, 2, 3] * 9], 8)
    assert table.continuations(7, 2) == table.continuations(-1, 2)
    assert table.continuations(7, 2)[0][0] == 3


def test_an_unseen_token_backs_off_to_the_unigram() -> None:
    """Red when a token that never stood in the text has no continuations."""
    table = KatzTable.build([[1, 2, 2, 2, 3] * 9], 8)
    assert table.continuations(1, 6)[0][0] == 2


def test_ngrams_end_with_their_text() -> None:
    """Red when the end of one text and the start of the next are counted as one."""
    apart = KatzTable.build([[1, 2], [3, 4]] * 5, 8, min_count=1)
    assert apart.continuations(1, 2)[1][0] < math.log(0.5)


def test_texts_are_counted_as_they_come() -> None:
    """Red when the split into texts, or their type, changes what is counted within them."""
    texts = [list(np.random.default_rng(i).integers(0, 20, 300)) for i in range(9)]
    as_lists = KatzTable.build(texts, 20)
    as_arrays = KatzTable.build((np.array(text, np.uint16) for text in texts), 20)
    assert [as_lists.continuations(1, t) for t in range(20)] == [
        as_arrays.continuations(1, t) for t in range(20)
    ]


def test_a_flushed_buffer_loses_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when counts that were merged early differ from counts made at once."""
    texts = [list(np.random.default_rng(i).integers(0, 9, 200)) for i in range(9)]
    whole = KatzTable.build(texts, 9)
    monkeypatch.setattr("engine.drafting.katz_build._BUFFERED_KEYS", 100)
    pieces = KatzTable.build(texts, 9)
    assert all(
        whole.logprob(b, last, t) == pieces.logprob(b, last, t)
        for b, last in all_contexts(whole)
        for t in range(9)
    )


def test_memory_is_bounded_and_what_is_frequent_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when counting outgrows its room, or makes room by forgetting what stands often."""
    generator = np.random.default_rng(0)
    frequent = [3, 4, 5, 6, 7, 8]
    texts = [[*frequent, *generator.integers(0, 500, 60).tolist()] for _ in range(200)]
    monkeypatch.setattr("engine.drafting.katz_build._BUFFERED_KEYS", 500)
    monkeypatch.setattr("engine.drafting.katz_build._MAX_KEYS", 2_000)
    _, _, trigrams = count_ngrams(texts, 500)
    assert len(trigrams.keys) <= 2_000
    assert trigrams.num_dropped > 5_000
    place = np.searchsorted(trigrams.keys, (3 * 500 + 4) * 500 + 5)
    assert trigrams.counts[place] == 200
    assert 0 < trigrams.discount() < 1


@pytest.mark.parametrize("max_bytes", [4_000, 8_000, 20_000])
def test_a_table_keeps_within_its_bytes(tmp_path: Path, max_bytes: int) -> None:
    """Red when pruning misjudges the size of a row."""
    text: Sequence[int] = (np.random.default_rng(0).zipf(1.3, 30_000) % 100).tolist()
    table = KatzTable.build([text], 100, max_continuations=2, max_bytes=max_bytes)
    table.save(tmp_path)
    assert table.num_bytes <= max_bytes
    assert (tmp_path / FILE_NAME).stat().st_size < max_bytes + 1024


def test_a_large_vocabulary_keeps_its_ids(tmp_path: Path) -> None:
    """Red when ids beyond 16 bits are cut."""
    table = KatzTable.build([[150_000, 70_000, 149_999] * 4], 150_001)
    table.save(tmp_path)
    assert KatzTable.load(tmp_path).continuations(150_000, 70_000)[0][0] == 149_999


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    """Red when a foreign token is counted as if it were another."""
    with pytest.raises(ValueError, match="outside the vocabulary of 4"):
        KatzTable.build([[1, 4]], 4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a table at all", b"\x02" + b"\0" * 7])
def test_a_bad_file_is_refused_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    """Red when a file of another kind raises something else or says nothing of what to do."""
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelLoadError, match="stagetree ngram build"):
        KatzTable.load(tmp_path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    """Red when half a table is taken for a whole one."""
    KatzTable.build([[1, 2, 3] * 9], 8).save(tmp_path)
    whole = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(whole[:-3])
    with pytest.raises(ModelLoadError, match="cut short"):
        KatzTable.load(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    """Red when the message does not say which file was looked for."""
    with pytest.raises(ModelLoadError, match=r"katz\.safetensors"):
        KatzTable.load(tmp_path)
