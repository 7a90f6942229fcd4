"""Completions over a real socket: streams, folds, ends, choices."""

from typing import Any

import pytest

from engine import GenerateRequest
from server.seeds import choice_seed
from tests.server.conftest import LiveServer, StartServer
from tests.server.fakes import EOS, Behaviour, blocks, byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
TEXT = "hello world, hello world, hello world"


def joined(events: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def stream(server: LiveServer, **body: Any) -> list[Any]:
    reply = server.complete(stream=True, **body)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    return reply.events()


BODIES: list[dict[str, Any]] = [
    {"max_tokens": 100},
    {"max_tokens": 3},
    {"max_tokens": 100, "stop": ", h"},
    {"max_tokens": 100, "stop": ["zzz", "world, hello"], "logprobs": 2},
    {"max_tokens": 7, "n": 3, "seed": 5, "prompt": ["a", "b"]},
    {"max_tokens": 5, "logprobs": 0, "return_token_ids": True},
    {"max_tokens": 100, "stop_token_ids": [TOKENIZER.encode(",")[0]]},
]


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_whole_reply_is_the_fold_of_its_stream(live: LiveServer, body: dict[str, Any]) -> None:
    """Red when stream and whole reply are written by different code, or a piece is lost."""
    body = {"seed": 1, **body}
    whole = live.complete(**body).json()
    events = stream(live, stream_options={"include_usage": True}, **body)
    assert events[-1] == "[DONE]"
    final = events[-2]
    assert final["choices"] == [] and final["usage"] == whole["usage"]
    assert joined(events) == {choice["index"]: choice["text"] for choice in whole["choices"]}
    for choice in whole["choices"]:
        pieces = [
            piece
            for event in events[:-1]
            for piece in event["choices"]
            if piece["index"] == choice["index"]
        ]
        assert [p["finish_reason"] for p in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1]["finish_reason"] == choice["finish_reason"]
        if choice["logprobs"] is not None:
            for key, values in choice["logprobs"].items():
                assert [v for piece in pieces for v in piece["logprobs"][key]] == values


def test_a_reply_says_what_openai_says_and_what_it_learned_about_itself(live: LiveServer) -> None:
    """Red when a field of the reply is missing, renamed or miscounted."""
    reply = live.complete(max_tokens=100, seed=42)
    body = reply.json()
    assert body["object"] == "text_completion" and body["model"] == "fake"
    assert body["id"] == f"cmpl-{reply.headers['x-request-id']}"
    [choice] = body["choices"]
    num_tokens = len(TOKENIZER.encode(TEXT))
    assert choice["text"] == TEXT and choice["seed"] == 42 and choice["logprobs"] is None
    assert choice["finish_reason"] == "length" and "token_ids" not in choice
    assert body["usage"]["completion_tokens"] == num_tokens
    spoken = body["metrics"]["speculative_decoding"]
    assert spoken["num_spec_steps"] == len(blocks(TEXT))
    assert sum(spoken["acceptance_histogram"]) == spoken["num_spec_steps"]
    assert [stage["name"] for stage in body["metrics"]["stages"]] == ["draft", "ngram"]


def test_a_stream_without_usage_tells_its_metrics_on_the_last_chunk(live: LiveServer) -> None:
    """Red when usage appears unasked, or metrics ride anywhere but on the last chunk."""
    events = stream(live, max_tokens=4, n=2)
    assert all("usage" not in event for event in events[:-1])
    assert [("metrics" in event) for event in events[:-1]] == [False] * (len(events) - 2) + [True]


def test_running_usage_counts_up(live: LiveServer) -> None:
    """Red when usage is only known at the end."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = stream(live, max_tokens=6, stream_options=options)
    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [2, 4, 6, 6]


def test_the_last_text_and_the_finish_reason_come_in_one_chunk(live: LiveServer) -> None:
    """Red when the end waits for the engine's word and costs an empty chunk."""
    *_, last, done = stream(live, max_tokens=4)
    assert done == "[DONE]" and last["choices"][0]["text"] and last["choices"][0]["finish_reason"]


def test_a_stop_string_ends_text_ids_logprobs_and_usage_at_one_token(live: LiveServer) -> None:
    """Red when a block's tokens are not taken one at a time."""
    body = live.complete(max_tokens=100, stop=["lo wo"], logprobs=1, return_token_ids=True).json()
    [choice] = body["choices"]
    ids: list[int] = []
    for token in TOKENIZER.encode(TEXT):
        ids.append(token)
        if "lo wo" in TOKENIZER.decode(ids):
            break
    assert choice["text"] == "hel"
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "lo wo"
    assert choice["token_ids"] == ids
    assert len(choice["logprobs"]["tokens"]) == len(ids) == body["usage"]["completion_tokens"]


def test_a_stop_string_frees_the_engine_before_its_script_ends(start_server: StartServer) -> None:
    """Red when a stop string only hides text that is still being decoded."""
    behaviour = Behaviour(lambda request: blocks("ab " * 100))
    server = start_server(behaviour).wait_ready()
    assert server.complete(max_tokens=200, stop="b").json()["choices"][0]["text"] == "a"
    assert behaviour.num_running == 0
    assert behaviour.finished[-1].stats.num_steps <= 2


def test_the_next_choice_begins_when_the_engine_is_free_of_the_last(
    start_server: StartServer,
) -> None:
    """Red when a cancelled sequence is not waited for."""
    server = start_server(Behaviour(lambda request: blocks("ab " * 9), 0.02)).wait_ready()
    choices = server.complete(max_tokens=200, stop="b", n=3).json()["choices"]
    assert [choice["text"] for choice in choices] == ["a"] * 3


def test_a_character_cut_off_by_the_limit_is_told_at_the_end(start_server: StartServer) -> None:
    """Red when the detokeniser is not flushed."""
    server = start_server(Behaviour(lambda request: blocks("a€"))).wait_ready()
    *_, last, _ = stream(server, max_tokens=3)
    assert last["choices"][0]["text"] == "\ufffd"


def test_a_stop_string_wins_over_the_limit_at_the_same_token(live: LiveServer) -> None:
    """Red when the limit is looked at before the text."""
    ids = TOKENIZER.encode(TEXT)
    text = TOKENIZER.decode(ids[:5])
    [choice] = live.complete(max_tokens=5, stop=text[-6:]).json()["choices"]
    assert choice["finish_reason"] == "stop" and choice["text"] == text[:-6]


def test_eos_and_stop_ids_end_the_text_without_showing(start_server: StartServer) -> None:
    """Red when a stop id leaks into the text, or is left out of usage."""
    comma = TOKENIZER.encode(",")[0]
    script = [[*TOKENIZER.encode("ab"), EOS, *TOKENIZER.encode("c,d")]]
    server = start_server(Behaviour(lambda request: script)).wait_ready()
    ended = server.complete(max_tokens=50).json()
    assert ended["choices"][0]["text"] == "ab"
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] == 3
    ignored = server.complete(max_tokens=50, ignore_eos=True, stop_token_ids=[comma]).json()
    assert ignored["choices"][0]["text"] == "abc"
    assert ignored["choices"][0]["stop_reason"] == comma


def test_each_choice_reports_the_seed_that_reproduces_it(start_server: StartServer) -> None:
    """Red when a reported seed is not the one that was used."""

    def by_seed(request: GenerateRequest) -> list[list[int]]:
        return blocks(f"seed {request.sampling.seed}")

    server = start_server(Behaviour(by_seed)).wait_ready()
    choices = server.complete(max_tokens=100, n=3, seed=9).json()["choices"]
    assert [choice["seed"] for choice in choices] == [choice_seed(9, k) for k in range(3)]
    for choice in choices:
        [again] = server.complete(max_tokens=100, seed=choice["seed"]).json()["choices"]
        assert again["text"] == choice["text"]


def test_logprobs_are_finite_json_and_hold_the_chosen_token(live: LiveServer) -> None:
    """Red when infinity reaches JSON or the chosen token is not among the alternatives."""
    reply = live.complete(max_tokens=4, logprobs=3)
    assert b"Infinity" not in reply.body and b"NaN" not in reply.body
    told = reply.json()["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [-0.25] * 4
    assert "".join(told["tokens"]) == reply.json()["choices"][0]["text"]
    for token, top in zip(told["tokens"], told["top_logprobs"], strict=True):
        assert top[token] == max(top.values()) == -0.25
        assert set(top.values()) <= {-0.25, -9999.0}
    starts = [sum(map(len, told["tokens"][:i])) for i in range(4)]
    assert told["text_offset"] == starts


def test_everything_asked_reaches_the_engine(live: LiveServer) -> None:
    """Red when a parameter is accepted and then forgotten."""
    live.complete(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=3, logprobs=2, speculation="always"
    )
    asked = live.behaviour.requests[-1]
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.min_p, sampling.seed) == (0.1, 3)
    assert (asked.num_logprobs, asked.speculation) == (2, "always")


def test_the_tokenizers_own_end_of_text_is_one(start_server: StartServer) -> None:
    """Red when the end that the model's configuration names is the only one."""
    end = TOKENIZER.encode("!")[0]
    script = [*blocks("hello"), [end], *blocks("and more")]
    server = start_server(Behaviour(script=lambda _: script, tokenizer_eos=(end,))).wait_ready()
    [choice] = server.complete(max_tokens=100).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello", "stop")
    assert server.behaviour.requests[-1].stop_token_ids == (end,)
    [choice] = server.complete(max_tokens=100, ignore_eos=True).json()["choices"]
    assert choice["text"] == "hello!and more"


@pytest.mark.parametrize("stop", ["<|endoftext|>", "<|endoftext|>w", "o<|endoftext|>"])
def test_a_stop_string_may_name_a_special_token(start_server: StartServer, stop: str) -> None:
    """Red when special tokens are dropped before stop strings are looked for."""
    script = [*blocks("hello"), [EOS], *blocks("world and more")]
    server = start_server(Behaviour(script=lambda _: script)).wait_ready()
    body = {"stop": [stop], "ignore_eos": True, "max_tokens": 100, "logprobs": 0}
    [choice] = server.complete(**body).json()["choices"]
    assert choice["text"] == ("hell" if stop.startswith("o") else "hello")
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    offsets = choice["logprobs"]["text_offset"]
    assert offsets[choice["logprobs"]["tokens"].index("<|endoftext|>")] == len("hello")
    assert joined(stream(server, **body)) == {0: choice["text"]}


def test_a_stop_string_may_end_with_the_end_of_text(start_server: StartServer) -> None:
    """Red when the end of a text hides that it ends with a stop string, of which a part leaks."""
    server = start_server(Behaviour(script=lambda _: [*blocks("hello"), [EOS]])).wait_ready()
    [choice] = server.complete(stop=["lo<|endoftext|>"], max_tokens=100).json()["choices"]
    assert (choice["text"], choice["stop_reason"]) == ("hel", "lo<|endoftext|>")
