"""One's own texts: read from files, folders and lines; none that quotes a benchmark prompt."""

import json
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.training.corpus import Document
from engine.training.streams import prepare
from engine.training.texts import PromptFilter, Texts, read_prompts, read_texts
from engine.training.tokenizer import train_tokenizer

PROMPT = "def add(a: int, b: int):\n    '''Return the sum of both the given numbers a and b.'''"


def lines(name: str, count: int = 30) -> str:
    return "".join(f"def {name}_{i}(first, second):\n    return {name}\n" for i in range(count))


def documents(*texts: str) -> list[Document]:
    return [Document("mine", str(i), text) for i, text in enumerate(texts)]


def test_files_folders_and_json_lines_are_read_and_what_is_no_text_is_not(tmp_path: Path) -> None:
    """Red when a kind of text is skipped, or a hidden or binary file is read."""
    (tmp_path / "deep" / ".git").mkdir(parents=True)
    (tmp_path / "deep" / "one.txt").write_text("first")
    (tmp_path / "deep" / ".git" / "config.txt").write_text("hidden")
    (tmp_path / "deep" / "image.bin").write_bytes(b"\xff\xfe\x00")
    rows = [{"text": "second\u2028line"}, {"text": "third"}]
    (tmp_path / "more.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    found = read_texts([tmp_path / "deep", tmp_path / "more.jsonl"])
    assert [d.text for d in found] == ["first", "second\u2028line", "third"]


def test_a_long_file_becomes_several_documents(tmp_path: Path) -> None:
    """Red when one large file is one document, of which nothing can be held out."""
    text = lines("long", 5000)
    (tmp_path / "book.txt").write_text(text)
    found = [document.text for document in read_texts([tmp_path])]
    assert "".join(found) == text
    assert len(found) > 1 and max(map(len, found)) <= 100_000
    assert all(piece.endswith("\n") for piece in found)


def test_what_is_missing_or_misshapen_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Red when a wrong path or a wrong line ends in a traceback."""
    with pytest.raises(ConfigError, match="no such file"):
        list(read_texts([tmp_path / "none"]))
    file = tmp_path / "bad.jsonl"
    file.write_text('{"body": "x"}\n')
    with pytest.raises(ConfigError, match='"text"'):
        list(read_texts([file]))
    for path in (file, tmp_path / "none"):
        with pytest.raises(ConfigError, match='"prompt"'):
            read_prompts(path)


def test_a_text_that_quotes_a_prompt_stays_out_and_is_counted(tmp_path: Path) -> None:
    """Red when a prompt can be found in what is trained on, whatever its layout there."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": PROMPT}) + "\n\n")
    loose = lines("f") + "# b int return the SUM of both\n# the given numbers: a AND b"
    near = lines("g") + "# Return the sum of both numbers."
    prompts = PromptFilter(read_prompts(file))
    kept = list(prompts.keep(documents(loose, lines("h") + PROMPT, near)))
    assert [d.text for d in kept] == [near]
    assert prompts.num_dropped == 2


def test_a_prompt_shorter_than_the_run_counts_as_a_whole() -> None:
    """Red when a short prompt is never found, since no run of it is 12 words long."""
    prompts = PromptFilter(["class Stack: a last-in, first-out list"])
    assert prompts.quotes(lines("f") + "class Stack:\n    '''A last-in, first-out list.'''")
    assert not prompts.quotes(lines("f") + "class Stack: a list")


def test_no_prompt_is_in_the_packed_tokens(tmp_path: Path) -> None:
    """Red when what is trained on still holds a prompt, although its file was to be left out."""
    for name in "abcdefgh":
        (tmp_path / f"{name}.py").write_text(lines(name) + PROMPT * (name in "cf"))
    texts = Texts((tmp_path,), (PROMPT,))
    streams = prepare(
        tmp_path / "work", texts, lambda found: train_tokenizer(found, 300), "toy tokenizer"
    )
    assert streams.facts.excluded_files == 2
    assert streams.facts.train_files + streams.facts.held_out_files == 6
    for stream in (streams.train, streams.held_out):
        assert not PromptFilter([PROMPT]).quotes(streams.tokenizer.decode(stream))


def test_a_work_folder_of_other_texts_is_refused(tmp_path: Path) -> None:
    """Red when --data or --exclude-prompts change and the texts of the former run are used."""
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(lines(name))
    work, texts = tmp_path / "work", Texts((tmp_path,))

    def again(texts: Texts, tokenizer: str) -> None:
        prepare(work, texts, lambda found: train_tokenizer(found, 300), tokenizer)

    again(texts, "toy")
    again(texts, "toy")
    for other, tokenizer in ((texts, "other"), (Texts((tmp_path,), (PROMPT,)), "toy")):
        with pytest.raises(ConfigError, match="another work folder"):
            again(other, tokenizer)
