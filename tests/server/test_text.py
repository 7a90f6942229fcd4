"""The text room: pieces join to the whole text, and no stop string ever leaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models
from tokenizers.decoders import DecodeStream

from server.errors import LoadFailedError
from server.text import Detokenizer, StopMatcher, Tokenizer
from tests.server.fakes import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
IDS = st.lists(st.integers(0, TOKENIZER.inner.get_vocab_size() - 1), max_size=40)
TEXT = st.text(st.sampled_from("ab¢€😀 \n"), max_size=20)


def written(ids: list[int], prompt: tuple[int, ...] = (), tokenizer: Tokenizer = TOKENIZER) -> str:
    detokenizer = Detokenizer(tokenizer, prompt)
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()


@given(IDS)
def test_pieces_of_any_token_ids_join_to_their_decoding(ids: list[int]) -> None:
    """Red when a tail is lost or a character is told twice."""
    assert written(ids) == TOKENIZER.decode(ids)


@given(TEXT, TEXT)
def test_a_reply_is_what_it_adds_to_its_prompt_and_never_repeats_it(head: str, tail: str) -> None:
    """Red when prompt text leaks into the reply."""
    prompt = tuple(TOKENIZER.encode(head))
    assert written(TOKENIZER.encode(tail), prompt) == tail


@given(TEXT, st.integers(1, 3))
def test_a_character_the_prompt_began_is_finished_without_repeating_the_prompt(
    head: str, cut: int
) -> None:
    """Red when a stream is primed with an unfinished character."""
    smile = TOKENIZER.encode("😀")
    assert len(smile) == 4
    prompt = (*TOKENIZER.encode(head), *smile[:cut])
    assert written([*smile[cut:], *TOKENIZER.encode("!")], prompt) == "😀!"


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in TOKENIZER.encode("€a")]
    assert pieces == ["", "", "€", "a"]


def test_a_character_cut_off_by_the_end_is_flushed_as_a_replacement() -> None:
    assert written(TOKENIZER.encode("a€")[:-1]) == "a\ufffd"


def test_special_tokens_leave_no_text() -> None:
    assert written([0, *TOKENIZER.encode("a"), 0]) == "a"


def metaspace_tokenizer() -> Tokenizer:
    vocab = {"▁a": 0, "▁b": 1, "c": 2, "<unk>": 3, "<0xE2>": 4}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.decoder = decoders.Metaspace()
    return Tokenizer(raw)


def test_a_reply_keeps_the_space_that_a_decoder_strips_at_the_start_of_a_text() -> None:
    """Red when a reply is decoded as if it began a text."""
    assert written([1, 2], prompt=(0,), tokenizer=metaspace_tokenizer()) == " bc"


class Backwards:
    """A decoder that rewrites all earlier text with every token."""

    def decode_chain(self, tokens: list[str]) -> list[str]:
        return tokens[::-1]


def test_a_decoder_that_rewrites_earlier_text_does_not_end_the_stream() -> None:
    """Red when one odd token ends a stream."""
    vocab = {"a": 0, "b": 1, "c": 2, "<unk>": 3}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.decoder = decoders.Decoder.custom(Backwards())
    with pytest.raises(Exception, match="Invalid prefix encountered"):
        [stream.step(raw, token) for stream in [DecodeStream()] for token in (0, 1)]
    assert written([0, 1, 2, 0], tokenizer=Tokenizer(raw)) == "abca"


def test_the_text_of_a_fragment_is_named_by_its_bytes() -> None:
    names = [TOKENIZER.token_text(token) for token in TOKENIZER.encode("€")]
    assert names == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert metaspace_tokenizer().token_text(1) == " b"


def test_a_missing_tokenizer_is_named_with_a_remedy(tmp_path: object) -> None:
    with pytest.raises(LoadFailedError, match=r"save_pretrained"):
        Tokenizer.load(str(tmp_path))


def test_a_saved_tokenizer_is_found_in_its_folder(tmp_path: object) -> None:
    TOKENIZER.inner.save(f"{tmp_path}/tokenizer.json")
    assert Tokenizer.load(str(tmp_path)).encode("hello") == TOKENIZER.encode("hello")


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)
PIECES = st.lists(st.text("abc", max_size=4), max_size=12)


def matched(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher, text = StopMatcher(tuple(stops)), ""
    for piece in pieces:
        text += matcher.push(piece)
        if matcher.matched:
            return text, matcher.matched
    return text + matcher.flush(), None


@given(STOPS, PIECES)
def test_the_text_ends_before_the_stop_string_that_completes_first(
    stops: list[str], pieces: list[str]
) -> None:
    """Red when stop strings are tried in list order."""
    whole = "".join(pieces)
    ends = [at + len(s) for s in stops if (at := whole.find(s)) >= 0]
    text, stop = matched(stops, pieces)
    if not ends:
        assert (text, stop) == (whole, None)
    else:
        at = min(ends)
        longest = max((s for s in stops if whole[:at].endswith(s)), key=len)
        assert (text, stop) == (whole[: at - len(longest)], longest)


@given(STOPS, PIECES)
def test_nothing_released_is_the_beginning_of_a_later_match(
    stops: list[str], pieces: list[str]
) -> None:
    """Red when a stop string, or the beginning of one, gets out."""
    matcher, text = StopMatcher(tuple(stops)), ""
    for piece in pieces:
        text += matcher.push(piece)
        assert not any(stop in text for stop in stops)
        if matcher.matched:
            break


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    """Red when text waits that no stop string can begin with."""
    matcher = StopMatcher(("\n\n", "END"))
    assert matcher.push("one\n") == "one"
    assert matcher.push("two E") == "\ntwo "
    assert matcher.push("ND") == "" and matcher.matched == "END"
