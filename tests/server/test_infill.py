"""Fill-in-the-middle: by tokenizers built like those of code models, as editors ask for it."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import openai
import pytest
from pydantic import ValidationError
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as RawTokenizer

from engine import ConfigError
from server.settings import Settings
from server.text import Infill, Tokenizer
from tests.server.conftest import LiveServer, StartServer
from tests.server.fakes import Behaviour

PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
CORPUS = [PREFIX + "a + b" + SUFFIX] * 4


def byte_level(*specials: str) -> Tokenizer:
    """As Qwen2.5-Coder, StarCoder2, Granite and DeepSeek-Coder have it: bytes, and no start."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    raw.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return Tokenizer(raw)


def sentence_piece(*specials: str) -> Tokenizer:
    """As CodeLlama and Codestral have it: words with a space before them, bytes, and a start."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({*"▁".join(["", *CORPUS]).replace(" ", "▁").replace("\n", "")})
    vocabulary = {name: at for at, name in enumerate([*names, *letters, *specials])}
    raw = RawTokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    raw.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>", *specials)])
    return Tokenizer(raw)


QWEN = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
QWEN += ("<|repo_name|>", "<|file_sep|>")
STARCODER = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")
STARCODER += ("<repo_name>", "<file_sep>")
GRANITE = (
    "<|endoftext|>",
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    "<reponame>",
)
DEEPSEEK = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜end▁of▁sentence｜>")
CODELLAMA = ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")
CODESTRAL = ("[PREFIX]", "[MIDDLE]", "[SUFFIX]")

Part = int | str
FAMILIES: dict[str, tuple[Callable[[], Tokenizer], list[str], str]] = {
    "Qwen2.5-Coder": (
        cache(lambda: byte_level(*QWEN)),
        ["<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"],
        "<|file_sep|>",
    ),
    "StarCoder2": (
        cache(lambda: byte_level(*STARCODER)),
        ["<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"],
        "<file_sep>",
    ),
    "Granite": (
        cache(lambda: byte_level(*GRANITE)),
        ["<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"],
        "<fim_pad>",
    ),
    "DeepSeek-Coder": (
        cache(lambda: byte_level(*DEEPSEEK)),
        [DEEPSEEK[0], PREFIX, DEEPSEEK[1], SUFFIX, DEEPSEEK[2]],
        DEEPSEEK[3],
    ),
    "CodeLlama": (
        cache(lambda: sentence_piece(*CODELLAMA)),
        ["<s>", "▁<PRE>", PREFIX, "▁<SUF>", SUFFIX, "▁<MID>"],
        "▁<EOT>",
    ),
    "Codestral": (
        cache(lambda: sentence_piece(*CODESTRAL)),
        ["<s>", "[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX],
        "[SUFFIX]",
    ),
}


def assembled(tokenizer: Tokenizer, parts: list[str]) -> list[int]:
    """The ids by hand: names are one token, and the suffix goes on without a space."""
    ids: list[int] = []
    for part in parts:
        known = tokenizer.inner.token_to_id(part)
        own = [known] if known is not None else tokenizer.encode(part, add_special_tokens=False)
        starts_with_space = known is None and tokenizer.token_text(own[0]).startswith(" ")
        ids += own[1:] if part == SUFFIX and starts_with_space else own
    return ids


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_suffix_is_placed_as_each_family_was_trained_to_read_it(
    start_server: StartServer, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when halves are swapped, a token is spelled out, or a space is put into the suffix."""
    make, parts, end = FAMILIES[family]
    tokenizer = make()
    script = [*([token] for token in tokenizer.encode("a + b", False)), [at(tokenizer, end)], [5]]
    with caplog.at_level("INFO"):
        server = start_server(Behaviour(lambda _: script, tokenizer=make)).wait_ready()
    assert "{prefix}" in caplog.text and "fill-in-the-middle" in caplog.text
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        reply = client.completions.create(
            model="fake", prompt=PREFIX, suffix=SUFFIX, max_tokens=40, seed=1
        )
    asked = server.behaviour.requests[-1]
    assert list(asked.prompt) == assembled(tokenizer, parts)
    assert at(tokenizer, end) in asked.stop_token_ids
    assert reply.choices[0].text.strip() == "a + b" and reply.choices[0].finish_reason == "stop"
    plain = server.complete(prompt=PREFIX, suffix="", max_tokens=40)
    assert (
        plain.status == 200
        and at(tokenizer, end) not in server.behaviour.requests[-1].stop_token_ids
    )


def at(tokenizer: Tokenizer, name: str) -> int:
    found = tokenizer.inner.token_to_id(name)
    assert found is not None
    return int(found)


def test_a_model_without_the_tokens_says_so_and_a_setting_helps(start_server: StartServer) -> None:
    """Red when a suffix is ignored, or the remedy that is told is none."""
    server = start_server().wait_ready()
    refused = server.complete(suffix="tail")
    assert refused.status == 400 and "fim_template" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "suffix"
    told = start_server(fim_template="<P>{prefix}<S>{suffix}<M>").wait_ready()
    assert told.complete(prompt="ab", suffix="cd").status == 200
    words = told.pool.tokenizer.get()
    assert words.decode(list(told.behaviour.requests[-1].prompt)) == "<P>ab<S>cd<M>"
    off = start_server(Behaviour(tokenizer=FAMILIES["StarCoder2"][0]), fim_template="").wait_ready()
    assert off.complete(suffix="tail").status == 400
    for wrong in ("<P>{prefix}", "{prefix}{suffix}{suffix}"):
        with pytest.raises((ValidationError, ConfigError), match="once each"):
            Settings(model="fake", fim_template=wrong)
    assert Infill.of(words) is None


def infill(server: LiveServer, **body: Any) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        return client.post("/infill", body=body, cast_to=object)


VIM: dict[str, Any] = {
    "id_slot": 0,
    "n_predict": 24,
    "n_indent": 4,
    "stop": [],
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
}


@pytest.mark.parametrize("family", ["Qwen2.5-Coder", "CodeLlama"])
def test_infill_is_what_llama_vim_and_llama_vscode_speak(
    start_server: StartServer, family: str
) -> None:
    """Red when a field that editors always send is refused, or what they read is not there."""
    make, parts, end = FAMILIES[family]
    tokenizer = make()
    script = [*([token] for token in tokenizer.encode("a + b", False)), [at(tokenizer, end)]]
    server = start_server(Behaviour(lambda _: script, tokenizer=make)).wait_ready()
    halves = {"input_prefix": PREFIX[:-8], "prompt": PREFIX[-8:], "input_suffix": SUFFIX}
    reply = infill(server, **halves, **VIM)
    assert list(server.behaviour.requests[-1].prompt) == assembled(tokenizer, parts)
    assert reply["content"].strip() == "a + b" and reply["stop"] is True
    assert (reply["stop_type"], reply["tokens_predicted"]) == ("eos", len(script))
    assert reply["timings"]["predicted_n"] == len(script) and reply["timings"]["prompt_n"] > 0
    fields = ["content", "timings/prompt_n", "generation_settings/n_ctx", "no/such"]
    chosen = infill(server, **halves, **VIM, response_fields=fields)
    assert list(chosen) == fields[:3] and chosen["content"] == reply["content"]
    # A ring buffer's warming, which writes nothing.
    warm = infill(server, input_prefix="", input_suffix="", prompt="", **{**VIM, "n_predict": 0})
    assert (warm["content"], warm["tokens_predicted"]) == ("", 0)


@pytest.mark.parametrize("n", [1, 3])
def test_a_gap_is_filled_piece_by_piece_and_several_times(
    start_server: StartServer, n: int
) -> None:
    """Red when a stream ends as OpenAI's do, or its pieces are not the whole."""
    server = start_server(Behaviour(tokenizer=FAMILIES["Qwen2.5-Coder"][0])).wait_ready()
    body = {"input_prefix": "a", "input_suffix": "b", **VIM, "n_cmpl": n}
    found = infill(server, **body)
    whole = found if n > 1 else [found]
    assert [each["index"] for each in whole] == [*range(n)]
    sent = json.dumps({**body, "stream": True}).encode()
    events = server.request("POST", "/infill", sent, content_type="application/json").events()
    for choice in whole:
        *pieces, last = [each for each in events if each["index"] == choice["index"]]
        assert "".join(each["content"] for each in pieces) == choice["content"] != ""
        assert not any(each["stop"] for each in pieces) and last["stop"] is True
        assert (last["content"], last["tokens_predicted"]) == ("", choice["tokens_predicted"])


def test_other_files_stand_before_the_gap_with_their_names(start_server: StartServer) -> None:
    """Red when a file is lost, or its name is not where the model was trained to find it."""
    make = FAMILIES["Qwen2.5-Coder"][0]
    server = start_server(Behaviour(tokenizer=make)).wait_ready()
    extra = [{"filename": "one.py", "text": "x = 1\n"}, {"text": "y = 2\n", "time": 5}]
    infill(server, input_prefix="a", input_suffix="b", input_extra=extra, **VIM)
    told = make().inner.decode(
        list(server.behaviour.requests[-1].prompt), skip_special_tokens=False
    )
    assert told == (
        "<|repo_name|>myproject\n<|file_sep|>one.py\nx = 1\n<|file_sep|>tmp\ny = 2\n"
        "<|file_sep|>filename\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    )


def test_of_a_gap_what_is_nearest_is_kept(start_server: StartServer) -> None:
    """Red when a file longer than the window is refused, or the wrong end of it is read."""
    make = FAMILIES["StarCoder2"][0]
    server = start_server(Behaviour(tokenizer=make)).wait_ready()
    halves = {"input_prefix": "p" * 999 + "Q", "input_suffix": "R" + "s" * 999}
    infill(server, **halves, input_extra=[{"text": "t" * 999}], **VIM)
    asked = server.behaviour.requests[-1]
    told = make().inner.decode(list(asked.prompt), skip_special_tokens=False)
    assert 200 < len(asked.prompt) <= 256 - 24
    assert "pQ<fim_suffix>Rs" in told and "t" not in told.replace("<fim_prefix>", "")[:5]
    infill(server, input_prefix="p", input_suffix="s", input_extra=[{"text": "t" * 999}], **VIM)
    told = make().decode(list(server.behaviour.requests[-1].prompt))
    assert told.startswith("t" * 50) and len(server.behaviour.requests[-1].prompt) <= 256 - 24
