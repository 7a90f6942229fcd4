"""Where a text's rows lie: everything follows from its tokens, its nodes, and where it begins."""

import pytest

from engine.rows import Rows, Tokens
from engine.tree import TokenTree

TREE = TokenTree.from_parents([3, 20, 21, 22, 23], [-1, 0, 0, 1, 2])


@pytest.mark.parametrize("first", [0, 100])
def test_rows_are_appended_committed_and_dropped(first: int) -> None:
    """Red when a row's place is counted from the cache's top, or by its index in the tree."""
    rows = Rows(first, 12)
    assert rows.missing([1, 2, 3]) == [1, 2]
    assert rows.slots(3) == range(first, first + 3)
    rows.add([1, 2], [])
    rows.add([], [0, 2])
    rows.add([], [1, 4])
    assert rows.prefix == first + 2 and rows.slots(1) == range(first + 6, first + 7)
    sources, targets = rows.commit(TREE, [0, 2, 4])
    assert sources == [first + 2, first + 3, first + 5]
    assert targets == range(first + 2, first + 5)
    assert rows.tokens == [1, 2, 3, 21, 23] and rows.prefix == first + 5
    rows.add([], [0])
    rows.rollback()
    assert rows.slots(1) == range(first + 5, first + 6) and not rows.nodes


def test_what_a_text_has_in_common_with_the_last_is_known() -> None:
    """Red when the last token, which is a tree's root, counts as read."""
    rows = Rows(0, 12)
    rows.add([1, 2, 3, 4], [])
    texts = ([1, 2, 9], [1, 2, 3, 4], [1, 2, 3, 4, 5], [9], [])
    assert [rows.known(Tokens(text)) for text in texts] == [2, 3, 4, 0, 0]
    rows.add([], [0, 1])
    rows.keep(Tokens([1, 2, 9, 9]))
    assert rows.tokens == [1, 2] and not rows.nodes
    assert rows.missing([1, 2, 9, 9]) == [9]


def test_tokens_without_a_row_are_known_and_take_no_place() -> None:
    """Red when a head's rows are counted as its target's, or another first token goes unnoticed."""
    rows = Rows(50, 12, offset=1)
    rows.keep(Tokens([1, 2, 3, 4]))
    assert rows.tokens == [1] and rows.prefix == 50
    rows.add(rows.missing([1, 2, 3, 4]), [])
    assert rows.prefix == 52 and rows.missing([1, 2, 3, 4, 5]) == [4]
    rows.keep(Tokens([7, 2, 3, 4]))
    assert rows.tokens == [7] and rows.missing([7, 2, 3, 4]) == [2, 3]
    rows.keep(Tokens([]))
    assert rows.tokens == [] and rows.prefix == 50


def test_rows_of_a_text_on_the_other_side_of_a_boundary_are_forgotten() -> None:
    rows = Rows(0, 12, boundary=3)
    rows.keep(Tokens([1, 2, 3]))
    rows.add([1, 2], [])
    rows.fit([1, 2, 3])
    assert rows.tokens == [1, 2] and not rows.is_long
    rows.fit([1, 2, 3, 4])
    assert rows.tokens == [] and rows.is_long


def test_a_strip_does_not_grow_into_the_next() -> None:
    rows = Rows(100, 3)
    rows.add([1], [0])
    assert rows.slots(1) == range(102, 103)
    with pytest.raises(ValueError, match="4 rows do not fit a strip of 3"):
        rows.slots(2)
