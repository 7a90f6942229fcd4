"""The tokenizer that is served feeds what stock transformers feeds, whatever its files keep."""

import json
import logging
import struct
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from engine import tokenizer
from engine.errors import ModelLoadError
from engine.tokenizer import load_tokenizer, read_tokenizer
from tests.checkpoints import save_checkpoint

TEXT = "def hello(world):\n    return world <|im_end|> é สวัสดี " * 8
END = "<|im_end|>"


def byte_level() -> Tokenizer:
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("r", "e"), ("Ġ", "w")]
    for first, second in merges:
        vocab[first + second] = len(vocab)
    raw = Tokenizer(models.BPE(vocab, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|endoftext|>", "<s>"])
    return raw


def truncated(raw: Tokenizer) -> None:
    raw.enable_truncation(16)


def padded(raw: Tokenizer) -> None:
    raw.enable_padding(length=4096, pad_id=0, pad_token="!")


def dropping_out(raw: Tokenizer) -> None:
    raw.model.dropout = 0.9


def beginning(raw: Tokenizer) -> None:
    start = raw.token_to_id("<s>")
    raw.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", start)])


def knowing_an_end(raw: Tokenizer) -> None:
    raw.add_special_tokens([END])


def plain(raw: Tokenizer) -> None:
    pass


def save(
    folder: Path, change: Callable[[Tokenizer], None] = plain, **files: dict[str, Any]
) -> Path:
    raw = byte_level()
    change(raw)
    raw.save(str(folder / "tokenizer.json"))
    for name, content in {"config": {"model_type": "llama"}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


NAMED = {"bos_token": "<s>", "eos_token": END}
ADDED = {"added_tokens_decoder": {"264": {"content": END, "special": True}}}
SAVED: list[tuple[Callable[[Tokenizer], None], dict[str, dict[str, Any]]]] = [
    (plain, {}),
    (truncated, {}),
    (truncated, {"tokenizer_config": {"model_max_length": 16}}),
    (padded, {}),
    (beginning, {}),
    (knowing_an_end, {}),
    (plain, {"tokenizer_config": NAMED}),
    (plain, {"tokenizer_config": {**NAMED, "add_bos_token": True}}),
    (plain, {"tokenizer_config": {**NAMED, "add_bos_token": True, "add_eos_token": True}}),
    (beginning, {"tokenizer_config": {**NAMED, "add_bos_token": False}}),
    (beginning, {"tokenizer_config": {**NAMED, "add_eos_token": True}}),
    (plain, {"tokenizer_config": ADDED}),
    (plain, {"special_tokens_map": NAMED}),
    (plain, {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}}),
    (truncated, {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}}),
    (plain, {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}}),
    (plain, {"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer", **NAMED}}),
    (plain, {"tokenizer_config": {"add_prefix_space": True}}),
    (plain, {"config": {"model_type": "gpt2"}}),
    (plain, {"tokenizer_config": {**NAMED, "split_special_tokens": True}}),
]


@pytest.mark.parametrize(("change", "files"), SAVED, ids=lambda it: getattr(it, "__name__", it))
def test_what_is_served_is_what_transformers_feeds(
    tmp_path: Path, change: Callable[[Tokenizer], None], files: dict[str, dict[str, Any]]
) -> None:
    """Red when state that a file keeps is used, or what another file adds is not."""
    folder = save(tmp_path, change, **files)
    stock: Any = AutoTokenizer.from_pretrained(folder)
    state = read_tokenizer(str(folder))
    served = Tokenizer.from_str(state.json)
    served.encode_special_tokens = state.splits_special_tokens
    for is_marked in (True, False):
        fed = stock(TEXT, add_special_tokens=is_marked).input_ids
        assert served.encode(TEXT, add_special_tokens=is_marked).ids == fed
    assert len(fed) > 100
    eos = stock.eos_token_id
    assert state.eos_token_ids == (() if eos is None else (eos,))
    assert load_tokenizer(folder).backend_tokenizer.encode(TEXT).ids == served.encode(TEXT).ids


_TOOL_USE = {"name": "tool_use", "template": "b"}


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        ({}, None, {}),
        ({"chat_template": "a"}, None, {"default": "a"}),
        (
            {"chat_template": [{"name": "default", "template": "a"}, _TOOL_USE]},
            None,
            {"default": "a", "tool_use": "b"},
        ),
        ({}, "c", {"default": "c"}),
        ({"chat_template": "a"}, "c", {"default": "c"}),
    ],
)
def test_chat_templates_are_found_wherever_checkpoints_keep_them(
    tmp_path: Path, config: dict[str, Any], file: str | None, expected: dict[str, str]
) -> None:
    """Red when one of the places is not looked at, or the special tokens stay behind."""
    folder = save(tmp_path, tokenizer_config={**NAMED, **config})
    if file is not None:
        (folder / "chat_template.jinja").write_text(file)
    state = read_tokenizer(str(folder))
    assert state.chat_templates == expected
    assert state.special_tokens == NAMED


def test_what_transformers_logs_while_it_reads_a_tokenizer_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when a server that starts prints a warning of which nobody can make anything."""
    load, logger = tokenizer._load, logging.getLogger("transformers")

    def chatting(folder: str) -> object:
        logger.warning("`tokenizer_class` is another")
        return load(folder)

    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stderr)])
    monkeypatch.setattr(tokenizer, "_load", chatting)
    load_tokenizer(save(tmp_path))
    assert capsys.readouterr() == ("", "")
    logger.warning("as before")
    assert "as before" in capsys.readouterr().err


def test_dropout_is_for_training_a_model_and_is_left_out(tmp_path: Path) -> None:
    """Red when one text has other ids each time."""
    whole = read_tokenizer(str(save(tmp_path)))
    dropped = read_tokenizer(str(save(tmp_path, dropping_out)))
    ids = Tokenizer.from_str(whole.json).encode(TEXT).ids
    assert Tokenizer.from_str(dropped.json).encode(TEXT).ids == ids


def test_a_checkpoints_own_code_is_not_run_for_its_tokenizer(tmp_path: Path) -> None:
    """Red when such code is run, or asked about, or the tokenizer.json beside it is not read."""
    named = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    folder = save(tmp_path, truncated, tokenizer_config=named)
    (folder / "own.py").write_text("raise SystemExit('this was run')\n")
    served = Tokenizer.from_str(read_tokenizer(str(folder)).json)
    assert served.encode(TEXT).ids == byte_level().encode(TEXT).ids


def test_a_tokenizer_without_a_configuration_is_read(tmp_path: Path) -> None:
    """Red when nothing but a whole checkpoint has a tokenizer."""
    folder = save(tmp_path, padded)
    (folder / "config.json").unlink()
    served = Tokenizer.from_str(read_tokenizer(str(folder)).json)
    assert served.encode(TEXT).ids == byte_level().encode(TEXT).ids


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"model": 5}', b"\xff\xfe\x00"])
def test_a_tokenizer_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    """Red when a foreign file raises anything else, or nothing is said of what to do."""
    folder = save_checkpoint(tmp_path)
    if content is not None:
        (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match="save_pretrained") as refusal:
        read_tokenizer(str(folder))
    assert len(str(refusal.value).splitlines()) == 1


def test_an_added_token_may_be_no_special_one(tmp_path: Path) -> None:
    """Red when tokens that a text may show are hidden like special ones."""

    def change(raw: Tokenizer) -> None:
        raw.add_tokens([AddedToken("<think>", special=False)])

    served = Tokenizer.from_str(read_tokenizer(str(save(tmp_path, change))).json)
    assert served.decode(served.encode("a<think>b").ids) == "a<think>b"


RANKS = [bytes([i]) for i in range(256)] + b"he ll hell hello wo wor".split() + [b" wor", b" world"]
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def tiktoken_file() -> bytes:
    """Tokens by rank, as tiktoken keeps them."""
    lines = (b64encode(token) + b" %d\n" % rank for rank, token in enumerate(RANKS))
    return b"".join(lines)


def tekken_file() -> bytes:
    """The same as Mistral's models have them, with special tokens in front."""
    specials = ("<unk>", "<s>", "</s>")
    told = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(RANKS),
            "default_vocab_size": len(RANKS) + 10,
            "default_num_special_tokens": 10,
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(RANKS)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True}
            for rank, name in enumerate(specials)
        ],
    }
    return json.dumps(told).encode()


def sentencepiece_file() -> bytes:
    """A SentencePiece model of pairs, as its protocol buffer."""

    def within(number: int, content: bytes) -> bytes:
        size, rest = len(content) & 127, len(content) >> 7
        length = bytes([size | 128, rest]) if rest else bytes([size])
        return bytes([number << 3 | 2]) + length + content

    def piece(text: str, score: float, kind: int) -> bytes:
        figures = b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        return within(1, within(1, text.encode()) + figures)

    pieces = [piece("<unk>", 0, 2), piece("<s>", 0, 3), piece("</s>", 0, 3)]
    pieces += [piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
    words = [
        "▁",
        "h",
        "e",
        "l",
        "o",
        "w",
        "r",
        "d",
        "▁h",
        "el",
        "lo",
        "▁hel",
        "▁hello",
        "▁w",
        "or",
        "▁wor",
        "ld",
        "▁world",
    ]
    pieces += [piece(word, -float(rank), 1) for rank, word in enumerate(words)]
    return b"".join(pieces) + within(2, bytes([0x18, 2]))


OLDER: dict[str, tuple[str, Callable[[], bytes], str | None]] = {
    "tekken": ("tekken.json", tekken_file, None),
    "tiktoken": ("tiktoken.model", tiktoken_file, "tiktoken"),
    "tiktoken, by the other name": ("tokenizer.model", tiktoken_file, "tiktoken"),
    "SentencePiece": ("tokenizer.model", sentencepiece_file, "sentencepiece"),
}


@pytest.mark.parametrize(("name", "make", "package"), OLDER.values(), ids=OLDER)
def test_older_files_are_read_as_transformers_reads_them(
    tmp_path: Path, name: str, make: Callable[[], bytes], package: str | None
) -> None:
    """Red when a checkpoint of another format than tokenizer.json cannot be served."""
    if package is not None:
        pytest.importorskip(package)
        pytest.importorskip("google.protobuf")
    folder = save_checkpoint(tmp_path)
    (folder / name).write_bytes(make())
    stock: Any = AutoTokenizer.from_pretrained(folder)
    served = Tokenizer.from_str(read_tokenizer(str(folder)).json)
    ids = stock("hello world").input_ids
    assert served.encode("hello world").ids == ids and len(ids) < 6
    assert served.decode(ids).strip() == "hello world"


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model", "qwen.tiktoken"])
@pytest.mark.parametrize("are_installed", [False, True])
def test_what_an_older_file_needs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, are_installed: bool
) -> None:
    """Red when nobody learns which package is missing, or that none would help."""
    folder = save_checkpoint(tmp_path)
    (folder / name).write_bytes(b"no file of tokens")
    monkeypatch.setattr(tokenizer, "_is_installed", lambda module: are_installed)
    told = "transformers cannot read its" if are_installed else "pip install sentencepiece protobuf"
    with pytest.raises(ModelLoadError, match=told) as refusal:
        read_tokenizer(str(folder))
    assert name in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
