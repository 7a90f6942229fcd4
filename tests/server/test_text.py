"""The text room: pieces join to the whole text, and no stop string ever leaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, normalizers

from engine import TokenizerState
from server.errors import LoadFailedError
from server.text import REPLACEMENT, Detokenizer, StopMatcher, Tokenizer
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


THAI = "สวัสดีครับ"


def byte_fallback_tokenizer() -> Tokenizer:
    """Like Llama's: a space is ▁, one stands before a text, and what is unknown becomes bytes."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abHelo"]
    merges = [("▁", "a"), ("▁", "H"), ("e", "l")]
    vocab = {piece: i for i, piece in enumerate([*pieces, *map("".join, merges)])}
    raw = RawTokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_special_tokens(["<unk>", "<s>"])
    return Tokenizer(raw)


FALLBACK = byte_fallback_tokenizer()


def with_decoder(*parts: decoders.Decoder) -> Tokenizer:
    """The byte-level tokenizer behind a decoder that only its library can run."""
    raw = RawTokenizer.from_str(TOKENIZER.inner.to_str())
    raw.decoder = decoders.Sequence([decoders.ByteLevel(), *parts])
    return Tokenizer(raw)


EVERY = pytest.mark.parametrize(
    "tokenizer",
    [
        *(TOKENIZER, FALLBACK, with_decoder(decoders.Strip(" ", 0, 0))),
        with_decoder(decoders.Replace("▁", " ")),
    ],
    ids=["level", "fallback", "stripped", "replaced"],
)
ANY_TEXT = st.text(
    st.sampled_from(f"abHelo é\n€😀\ufffd{THAI}") | st.characters(codec="utf-8"), max_size=20
)


@EVERY
@given(prompt=ANY_TEXT, reply=ANY_TEXT)
def test_a_reply_is_the_rest_of_the_text_that_transformers_would_decode(
    tokenizer: Tokenizer, prompt: str, reply: str
) -> None:
    """Red when the end of a prompt costs its reply a space, or anything of it comes again."""
    head, tail = tokenizer.encode(prompt), tokenizer.encode(reply)
    known = tokenizer.decode(head)
    whole = tokenizer.decode(head + tail)
    assert whole.startswith(known)
    assert written(tail, tuple(head), tokenizer) == whole[len(known) :]


@EVERY
def test_a_character_of_several_tokens_comes_out_whole_and_at_once(tokenizer: Tokenizer) -> None:
    """Red when its tokens are told as U+FFFD each, or wait for more than the character needs."""
    detokenizer = Detokenizer(tokenizer, tuple(tokenizer.encode("n")))
    pieces = [detokenizer.push(token) for token in tokenizer.encode("世a")]
    assert [piece.strip() for piece in pieces if piece.strip()] == ["世", "a"]
    assert detokenizer.flush() == ""


@EVERY
@given(text=ANY_TEXT, cuts=st.tuples(st.integers(0, 80), st.integers(0, 80)))
def test_ids_that_begin_or_end_inside_a_character_cost_nothing_but_that_character(
    tokenizer: Tokenizer, text: str, cuts: tuple[int, int]
) -> None:
    """Red when a run of bytes that ends too early turns into U+FFFD, or a begun one does."""
    ids = tokenizer.encode(text)
    start, end = sorted(cut % (len(ids) + 1) for cut in cuts)
    encoded = text.encode() if tokenizer is not FALLBACK or not text else f" {text}".encode()
    begun = encoded[: num_bytes(tokenizer, ids[:start])].decode(errors="ignore")
    ended = encoded[: num_bytes(tokenizer, ids[:end])].decode(errors="replace")
    expected = ended[len(begun) :] if end > start else ""
    if len(begun.encode()) < num_bytes(tokenizer, ids[:start]):
        expected = expected.removeprefix(REPLACEMENT)  # which the prompt's own text ends with
    if tokenizer is FALLBACK and not begun:
        expected = expected[1:]
    assert written(ids[start:end], tuple(ids[:start]), tokenizer) == expected


def num_bytes(tokenizer: Tokenizer, ids: list[int]) -> int:
    """Of a byte level, each character is a byte; of a fallback, each `<0x..>` is."""
    pieces = [tokenizer.inner.id_to_token(token) for token in ids]
    if tokenizer is not FALLBACK:
        return len("".join(pieces))
    return sum(
        1 if piece.startswith("<0x") else len(piece.replace("▁", " ").encode()) for piece in pieces
    )


def test_a_reply_to_a_prompt_in_bytes_keeps_its_first_space() -> None:
    """Red when a prompt whose last tokens begin inside a character counts as none."""
    prompt = tuple(FALLBACK.encode(THAI))
    assert written(FALLBACK.encode("Hello"), prompt, FALLBACK) == " Hello"
    assert written(FALLBACK.encode("Hello"), (*prompt, *[1] * 9), FALLBACK) == " Hello"
    assert written(FALLBACK.encode("Hello"), (), FALLBACK) == "Hello"


def test_only_the_broken_bytes_of_a_run_are_replaced() -> None:
    """Red when one broken character takes the whole ones around it along."""
    one = [FALLBACK.inner.token_to_id(f"<0x{byte:02X}>") for byte in "ส".encode()]
    assert written([*one, one[0], *one, one[0]], (), FALLBACK) == "ส\ufffdส\ufffd"


class Backwards:
    """A decoder that rewrites all earlier text with every token."""

    def decode_chain(self, tokens: list[str]) -> list[str]:
        return tokens[::-1]


def test_a_decoder_that_rewrites_earlier_text_does_not_end_the_stream() -> None:
    """Red when one odd token ends a stream."""
    vocab = {"a": 0, "b": 1, "c": 2, "<unk>": 3}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.decoder = decoders.Decoder.custom(Backwards())
    assert written([0, 1, 2, 0], tokenizer=Tokenizer(raw)) == "abca"


def test_the_text_of_a_fragment_is_named_by_its_bytes() -> None:
    names = [TOKENIZER.token_text(token) for token in TOKENIZER.encode("€")]
    assert names == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert metaspace_tokenizer().token_text(1) == " b"


def test_an_id_behind_the_tokenizers_vocabulary_has_a_name_and_no_text() -> None:
    """Red when the ids of a vocabulary's padding share one name, or end a reply."""
    ids = [10**6, *TOKENIZER.encode("a"), 10**6 + 1]
    assert [TOKENIZER.token_text(token) for token in ids] == ["<1000000>", "a", "<1000001>"]
    assert written(ids) == "a"


def test_a_missing_tokenizer_is_named_with_a_remedy(tmp_path: object) -> None:
    with pytest.raises(LoadFailedError, match=r"save_pretrained"):
        Tokenizer.load(str(tmp_path))


def test_a_tokenizer_is_passed_on_whole() -> None:
    """Red when what a tokenizer.json has no room for is lost on the way."""
    state = TokenizerState(TOKENIZER.inner.to_str(), (0, 5), splits_special_tokens=True)
    passed_on = Tokenizer.of(state)
    assert passed_on.eos_token_ids == (0, 5) and passed_on.specials == {0: "<|endoftext|>"}
    assert TOKENIZER.encode("<|endoftext|>") == [0] != passed_on.encode("<|endoftext|>")
    assert passed_on.encode("hello") == TOKENIZER.encode("hello")


def test_a_saved_tokenizer_is_found_in_its_folder(tmp_path: object) -> None:
    TOKENIZER.inner.save(f"{tmp_path}/tokenizer.json")
    assert Tokenizer.load(str(tmp_path)).encode("hello") == TOKENIZER.encode("hello")


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)
PIECES = st.lists(st.text("abc", max_size=4), max_size=12)


SPECIALS = {7: "<|end|>", 8: "<s>"}
TOLD = st.lists(st.sampled_from(["a", "b", "<", "<s>", 7, 8]), max_size=12)
NAMING: dict[str, list[str | int]] = {
    "<|end|>": [7],
    "a<s>": ["a", 8],
    "<s>b": [8, "b"],
    "<|end|><s>": [7, 8],
    "ab": [],
    "b<": [],
    ">": [],
}


@given(st.lists(st.sampled_from(sorted(NAMING)), unique=True), TOLD)
def test_a_special_token_that_a_stop_string_names_ends_the_text(
    stops: list[str], told: list[str | int]
) -> None:
    """Red when such a token is not seen, another one is, or any of a stop string gets out."""
    matcher = StopMatcher(tuple(stops), SPECIALS)
    ids = {atom for stop in stops for atom in NAMING[stop] if isinstance(atom, int)}
    text, plain, atoms = "", "", list[str | int]()
    for token in told:
        if isinstance(token, int):
            text += matcher.push(matcher.marks.get(token, ""))
            atoms += {token} & ids
        else:
            text += matcher.push(token)
            plain += token
            atoms += token
        places = [(at + len(stop), at, stop) for stop in stops if (at := plain.find(stop)) >= 0]
        for stop in stops:
            if (end := NAMING[stop]) and atoms[-len(end) :] == end:
                num_visible = sum(isinstance(atom, str) for atom in end)
                places.append((len(plain), len(plain) - num_visible, stop))
        if places:
            _, at, stop = min(places)
            assert text == plain[:at] and matcher.matched == stop
            return
        assert matcher.matched is None and plain.startswith(text)
    assert text + matcher.flush() == plain


def test_the_name_of_a_special_token_ends_the_text_where_it_is_written_out() -> None:
    matcher = StopMatcher(("<|end|>",), SPECIALS)
    assert matcher.push("one <|en") == "one "
    assert matcher.push("d|>") == "" and matcher.matched == "<|end|>"


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
