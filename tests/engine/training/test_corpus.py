"""What is trained on: read by licence, kept once, split by file."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.training import corpus
from engine.training.corpus import (
    SOURCES,
    Corpus,
    Document,
    Source,
    collect,
    deduplicate,
)

_COPYLEFT = ("GPL", "MPL", "EPL", "CDDL")


def write_file(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def module(name: str, num_lines: int = 30) -> str:
    return "".join(f"def {name}_{i}(first, second):\n    return {name}\n" for i in range(num_lines))


def document(text: str, path: str = "a.py") -> Document:
    return Document("package", path, text)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(corpus, "_root", lambda package: tmp_path / package)
    return tmp_path


def test_sources_are_read_and_tests_data_and_vendored_parts_are_not(packages: Path) -> None:
    """Red when something that is not written Python enters, or something that is stays out."""
    write_file(packages, "one/good.py", module("good"))
    write_file(packages, "one/deep/good.py", module("deep"))
    for path in ("tests/test_good.py", "_vendor/six.py", "__pycache__/good.py"):
        write_file(packages, f"one/{path}", module("other"))
    write_file(packages, "one/short.py", "x = 1\n")
    write_file(packages, "one/digits.py", "TABLE = [\n" + "    123456, 654321,\n" * 90 + "]\n")
    write_file(packages, "one/wide.py", module("wide") + f"BLOB = '{'A' * 500}'\n")
    (packages / "one/latin.py").write_bytes(b"# caf\xe9\n" + module("latin").encode())
    found = list(collect([Source("one", "MIT")]))
    assert {d.path for d in found} == {"good.py", "deep/good.py"}
    assert all(d.package == "one" for d in found)


def test_a_share_of_a_source_takes_some_of_its_files_always_the_same(packages: Path) -> None:
    """Red when the share is ignored or drawn anew each time."""
    for i in range(60):
        write_file(packages, f"one/m{i}.py", module(f"m{i}"))
    half = [list(collect([Source("one", "MIT", 0.5)])) for _ in range(2)]
    assert half[0] == half[1]
    assert 15 < len(half[0]) < 45


def test_every_source_states_a_permissive_licence() -> None:
    """Red when a copyleft package is added to the list."""
    assert len({source.package for source in SOURCES}) == len(SOURCES)
    assert not [s for s in SOURCES if any(word in s.licence for word in _COPYLEFT)]


def test_a_copy_is_dropped_even_with_small_changes() -> None:
    """Red when identical or nearly identical files are both kept."""
    original, changed = module("f"), module("f").replace("f_3", "renamed")
    other = module("g")
    kept = list(deduplicate([document(t) for t in (original, original, changed, other)]))
    assert [d.text for d in kept] == [original, other]


def test_texts_of_short_lines_are_kept_once() -> None:
    """Red when verse or chat is dropped for its short lines, or kept twice."""
    verse = "so much depends\nupon\na red wheel\nbarrow\n"
    kept = deduplicate([document(t) for t in (verse, "\n", verse, "glazed with rain\n")])
    assert [d.text for d in kept] == [verse, "glazed with rain\n"]


def test_the_split_is_by_file_and_depends_on_the_text_alone() -> None:
    """Red when a file is in both parts or in neither, or moves when others come and go."""
    documents = [document(module(f"m{i}"), f"{i}.py") for i in range(200)]
    split = Corpus.split(documents, held_out_share=0.2)
    assert set(split.train) | set(split.held_out) == set(documents)
    assert not set(split.train) & set(split.held_out)
    assert 20 < len(split.held_out) < 60
    fewer = Corpus.split(documents[::-2], held_out_share=0.2)
    assert set(fewer.held_out) <= set(split.held_out)


def test_of_a_few_texts_one_is_held_out_and_one_alone_is_refused() -> None:
    """Red when somebody's few files are all trained on, or one file passes without a word."""
    split = Corpus.split([document(module(f"m{i}"), f"{i}.py") for i in range(3)])
    assert (len(split.train), len(split.held_out)) == (2, 1)
    with pytest.raises(ConfigError, match="give more files"):
        Corpus.split([document(module("one"))])
