"""Tokens, seats and load, asked apart from completions; and sizes refused before they are read."""

import json
from typing import Any

import openai
import pytest

from server.text import Tokenizer
from tests.server.conftest import LiveServer, StartServer, wait_until
from tests.server.fakes import EOS, WINDOW, Behaviour, blocks, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()


def post(server: LiveServer, path: str, **body: Any) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        return client.post(path, body=body, cast_to=object)


@pytest.mark.parametrize("text", ["hello world", "", "héllo €", "<|endoftext|>"])
def test_a_text_and_its_tokens_are_told_in_both_dialects(live: LiveServer, text: str) -> None:
    """Red when vLLM's or llama-server's clients find no tokens, or other ones."""
    ids = TOKENIZER.encode(text)
    told = post(live, "/tokenize", prompt=text, add_special_tokens=True, return_token_strs=True)
    assert (told["tokens"], told["count"], told["max_model_len"]) == (ids, len(ids), WINDOW)
    assert len(told["token_strs"]) == len(ids)
    assert post(live, "/tokenize", content=text)["tokens"] == ids
    back = post(live, "/detokenize", tokens=ids)
    assert back["prompt"] == back["content"] == text


def test_what_is_no_text_is_refused(live: LiveServer) -> None:
    for body in ({}, {"prompt": "a", "content": "b"}, {"prompt": 5}):
        with pytest.raises(openai.BadRequestError):
            post(live, "/tokenize", **body)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        post(live, "/detokenize", tokens=[-1])


def test_no_name_is_ignored(live: LiveServer) -> None:
    """Red when a client that asks for pieces, or misspells a name, is told something else."""
    for path, body in (("/tokenize", {"content": "a"}), ("/detokenize", {"tokens": [5]})):
        for name in ("with_pieces", "add_specials", "messages", "\ud800"):
            sent = json.dumps({**body, name: True}).encode()
            reply = live.request("POST", path, sent, content_type="application/json")
            assert reply.status == 400, reply.body
            assert reply.json()["error"]["param"] in (name, "?")
        assert post(live, path, **body, with_pieces=False, parse_special=True, model=None)


def test_an_evaluation_learns_what_the_tokenizer_is(live: LiveServer) -> None:
    """Red when lm-evaluation-harness' remote tokenizer has no end of text."""
    info = live.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|endoftext|>" and info["eos_token_ids"] == [EOS]
    assert info["model_max_length"] == WINDOW and info["special_tokens"] == {"<|endoftext|>": EOS}
    assert (info["bos_token"], info["fim_template"], info["chat_template"]) == (None, None, None)


def test_seats_and_load_are_counted(start_server: StartServer) -> None:
    """Red when a balancer cannot see who is busy."""
    behaviour = Behaviour(lambda _: blocks("ab " * 50), step_seconds=0.05, num_seats=2)
    server = start_server(behaviour).wait_ready()
    wait_until(lambda: server.get("/load").json() == {"server_load": 0})
    assert [slot["is_processing"] for slot in server.get("/slots").json()] == [False, False]
    first = server.open_stream(max_tokens=99)
    first.response()
    assert server.get("/load").json() == {"server_load": 1}
    assert [slot["is_processing"] for slot in server.get("/slots").json()] == [True, False]
    assert server.get("/slots?fail_on_no_slot=1").status == 200
    second = server.open_stream(max_tokens=99)
    second.response()
    full = server.get("/slots?fail_on_no_slot=1")
    assert full.status == 503 and full.headers["retry-after"]
    for stream in (first, second):
        stream.close()


def test_seats_are_told_of_an_engine_whose_death_is_hardly_known(start_server: StartServer) -> None:
    """Red when the list of seats is a 503 between a death and the next process."""
    server = start_server().wait_ready()
    server.pool.clients[0].is_serving = False
    reply = server.get("/slots")
    assert reply.status == 200
    assert [(slot["n_ctx"], slot["speculative"]) for slot in reply.json()] == [(0, False)]


def test_what_is_served_is_told_as_llama_server_tells_it(live: LiveServer) -> None:
    told = live.get("/props").json()
    assert told["default_generation_settings"]["n_ctx"] == WINDOW
    assert (told["total_slots"], told["model_alias"]) == (1, "fake")


def test_before_the_model_has_loaded_they_say_so(start_server: StartServer) -> None:
    """Red when one of them is a 500 while the model loads."""
    server = start_server(Behaviour(load_seconds=30))
    assert {server.get(path).status for path in ("/ping", "/load", "/slots")} == {200}
    assert {server.get(path).status for path in ("/props", "/tokenizer_info")} == {503}
    server.behaviour.load_seconds = 0


@pytest.mark.parametrize(
    "prompt",
    [
        *([5] * (2**19 + 1), [5] * (2**19 + 2**17), [[5]] * 5000, [[5]] * 300_000),
        *([[5] * 270_000] * 2, ["a"] * 5000),
    ],
    ids=["ids", "more ids", "lists of one", "more lists", "long lists", "texts"],
)
def test_too_much_is_refused_by_its_size(live: LiveServer, prompt: Any) -> None:
    """Red when millions of items are looked at one by one before anything is refused."""
    reply = live.complete(prompt=prompt)
    assert len(reply.body) < 500
    if reply.status == 400:
        assert reply.json()["error"]["param"] == "prompt"
        assert "are the most" in reply.json()["error"]["message"]
    else:  # not even parsed
        assert reply.status == 413 and "items" in reply.json()["error"]["message"]


@pytest.mark.parametrize("name", ["prompt", "suffix"])
def test_a_text_that_can_never_fit_is_not_tokenised(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Red when seconds of tokenising come before the refusal of eight megabytes."""
    server = start_server(fim_template="<P>{prefix}<S>{suffix}<M>").wait_ready()
    lengths: list[int] = []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
        lengths.append(len(text))
        return encode(self, text, add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    reply = server.complete(**{"prompt": "a", name: "hello " * 10**6})
    assert reply.status == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert "6000000 characters" in reply.json()["error"]["message"]
    assert max(lengths, default=0) < 10
    cut = server.complete(prompt="hello " * 10**6, truncate_prompt_tokens=8)
    assert cut.status == 200 and max(lengths) <= WINDOW * 20


def test_words_are_tokenised_once_for_all_prompts_and_no_field_is_too_long(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when many prompts multiply what a prediction costs, or one has no limit."""
    server = start_server().wait_ready()
    texts: list[str] = []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
        texts.append(text)
        return encode(self, text, add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    prediction = {"type": "content", "content": "foreseen"}
    reply = server.complete(prompt=["a", "b", "c"], prediction=prediction, bad_words=["bad"])
    assert reply.status == 200
    assert (texts.count("foreseen"), texts.count("bad")) == (1, 1)
    long = {"type": "content", "content": "hello " * 10**6}
    assert server.complete(prediction=long).json()["error"]["param"] == "prediction"
    with pytest.raises(openai.BadRequestError, match="6000000 characters"):
        post(server, "/tokenize", content=long["content"])
    assert max(map(len, texts)) < 100
