"""The live look-up against a plain search through the history."""

from hypothesis import given
from hypothesis import strategies as st

from engine.drafting.lookup import SuffixLookup

texts = st.lists(st.integers(0, 3), max_size=40)


def plain_search(history: list[int], tail: list[int]) -> int:
    """The longest match anywhere that has a token after it, at least 3 and at most 32 long."""
    longest = 0
    for end in range(3, len(history)):
        length = 0
        while length < min(32, len(tail), end) and history[end - 1 - length] == tail[-1 - length]:
            length += 1
        longest = max(longest, length)
    return longest if longest >= 3 else 0


def found(lookup: SuffixLookup, tail: list[int]) -> tuple[int, int]:
    """The token after the longest match, and its length."""
    match = lookup.find(tail)
    assert match is not None
    return match.token, match.length


@given(texts, texts)
def test_it_finds_the_longest_earlier_match(text: list[int], path: list[int]) -> None:
    lookup = SuffixLookup(max_places=1000)
    lookup.begin(text)
    tail = text + path
    match = lookup.find(tail)
    assert (match.length if match else 0) == plain_search(text, tail)


def test_it_continues_a_repetition() -> None:
    lookup = SuffixLookup()
    history = lookup.begin([1, 2, 3, 4, 5, 9, 9, 1, 2, 3])
    assert found(lookup, [1, 2, 3]) == (4, 3)
    lookup.extend(history, [4])
    assert found(lookup, [9, 1, 2, 3, 4]) == (5, 4)


def test_of_equal_matches_the_latest_wins() -> None:
    lookup = SuffixLookup()
    lookup.begin([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])
    assert found(lookup, [1, 2, 3]) == (5, 3)


def test_earlier_texts_are_found_but_no_match_spans_two() -> None:
    lookup = SuffixLookup()
    lookup.begin([1, 2, 3, 4])
    lookup.begin([5, 6, 7])
    assert found(lookup, [8, 1, 2, 3]) == (4, 3)
    assert lookup.find([3, 4, 5]) is None
    assert lookup.find([2, 3, 4]) is None


def test_the_history_is_bounded_and_forgets_the_oldest() -> None:
    lookup = SuffixLookup(capacity=100)
    lookup.begin([1, 2, 3, 4])
    for start in range(20):
        lookup.begin([10 + start] * 20)
    known = [*lookup._places.values(), *lookup._older.values()]
    assert sum(map(len, known)) <= 140
    assert lookup.find([1, 2, 3]) is None
    assert lookup.find([29, 29, 29]) is not None


def test_what_lies_in_the_older_half_is_found_behind_what_is_newer() -> None:
    """Red when a generation is dropped too early, or of equal matches the older one wins."""
    lookup = SuffixLookup(capacity=40)
    history = lookup.begin([1, 2, 3, 4])
    lookup.begin([*range(100, 130)])
    assert found(lookup, [1, 2, 3]) == (4, 3)
    lookup.extend(history, [1, 2, 3, 5])
    assert found(lookup, [1, 2, 3]) == (5, 3)
    assert found(lookup, [9, 2, 3, 4]) == (1, 3)


def test_a_match_is_followed_to_the_end_of_its_text() -> None:
    """Following costs no search and finds what searching would have found."""
    lookup = SuffixLookup()
    lookup.begin([1, 2, 3, 4, 5])
    lookup.begin([1, 2, 3])
    match = lookup.find([1, 2, 3])
    assert match is not None and (match.token, match.length) == (4, 3)
    match = match.follow()
    assert match is not None and (match.token, match.length) == (5, 4) == found(
        lookup, [1, 2, 3, 4]
    )
    assert match.follow() is None


def test_texts_that_grow_at_once_are_told_apart() -> None:
    """Red when the tokens of two texts are taken for neighbours."""
    lookup = SuffixLookup()
    first, second = lookup.begin([1, 2]), lookup.begin([7, 8])
    for one, other in ((3, 9), (4, 10)):
        lookup.extend(first, [one])
        lookup.extend(second, [other])
    assert found(lookup, [1, 2, 3]) == (4, 3)
    assert found(lookup, [7, 8, 9]) == (10, 3)
    assert lookup.find([2, 3, 9]) is None
