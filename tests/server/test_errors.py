"""Every refusal has OpenAI's envelope and the right status."""

import json
from typing import Any

import pytest

from tests.server.conftest import LiveServer, Reply, StartServer
from tests.server.fakes import WINDOW, Behaviour


def error(reply: Reply, status: int) -> dict[str, Any]:
    """The error of a reply, checked for status and shape."""
    assert reply.status == status, reply.body
    body = reply.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and isinstance(body["error"]["message"], str)
    assert reply.headers["x-request-id"]
    found: dict[str, Any] = body["error"]
    return found


BAD_PROMPTS: list[Any] = [
    *([], [[]], [[[], 1]], [["a", 1]], [1, "a"], [["a"]], {}, 5, [None], [[1], []], [True]),
    *([-1], [10_000], [[5], [10_000]], "half a pair \ud800"),
]
INVALID: list[tuple[str, Any]] = [
    *(("max_tokens", value) for value in (-2, "5", 1.5, True)),
    *(("temperature", value) for value in (-0.1, 101, "hot")),
    *(("top_p", value) for value in (1.1, -1)),
    *(("top_k", value) for value in (-2, 2**40, 0.5)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("n", value) for value in (0, 129, "2")),
    *(("stop", value) for value in ("", [""], ["a" * 5000], 5, [1])),
    *(("stop_token_ids", value) for value in ([-1], ["a"], 5, [100_000])),
    *(("logprobs", value) for value in (-1, 21, True)),
    *(("seed", value) for value in (2**64, -(2**63) - 1, "1", 0.5)),
    *(("prompt", value) for value in BAD_PROMPTS),
    *(("stream", value) for value in ("yes", 1)),
    *(("speculation", value) for value in ("sometimes", True)),
    ("stream_options", {"include_usage": True}),
    ("model", 5),
    *(("best_of", value) for value in (0, 21, "2")),
    ("suffix", "tail"),
    ("echo", 1),
    *(("prompt_logprobs", value) for value in (-1, 21, True)),
    *(("truncate_prompt_tokens", value) for value in (0, -2, "5")),
    *(("logit_bias", value) for value in ({"a": 1}, {"5": 101}, {"5": "1"}, {"100000": 1}, [5])),
    *((name, value) for name in ("frequency_penalty", "presence_penalty") for value in (2.5, -3)),
    *(("repetition_penalty", value) for value in (0, -1, "1")),
    *(("min_tokens", value) for value in (-1, 17, 0.5)),
    *(("allowed_token_ids", value) for value in ([-1], [100_000], 5)),
    *(("bad_words", value) for value in ([""], [5], 5)),
    *(("typical_p", value) for value in (0, 1.5)),
    *(("xtc_probability", value) for value in (-0.1, 1.5)),
    *(("xtc_threshold", value) for value in (-0.1, 1.5)),
    ("top_n_sigma", -2),
    ("dry_multiplier", -1),
    ("dry_base", 0.5),
    ("dry_allowed_length", 0),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", [5]),
    *(("response_format", value) for value in ({"type": "xml"}, {"type": "json_schema"})),
    *(("structured_outputs", value) for value in ({"xml": 1}, {"regex": 5}, {"choice": [1]})),
    *(("guided_json", value) for value in (5, "{")),
    ("guided_choice", []),
    ("grammar", 5),
    ("structured_outputs", {"structural_tag": {}}),
    *(("priority", value) for value in (2**70, "high")),
    ("max_token", 5),
    ("no_repeat_ngram_size", 2),
    ("messages", [{"role": "user", "content": "hello"}]),
]


@pytest.mark.parametrize(("field", "value"), INVALID, ids=str)
def test_an_invalid_field_is_a_400_that_names_it(
    live: LiveServer, field: str, value: object
) -> None:
    """Red when a limit is not checked, or the complaint does not say what it is about."""
    found = error(live.complete(**{field: value}), 400)
    assert found["type"] == "invalid_request_error"
    assert found["param"] is not None and found["param"].startswith(field)
    assert field in found["message"]


def test_nulls_and_harmless_fields_mean_the_default(live: LiveServer) -> None:
    """Red when a client that spells out its defaults is refused."""
    names = "model max_tokens temperature top_p top_k min_p seed stop stream stream_options n"
    names += " logprobs user speculation ignore_eos stop_token_ids best_of suffix echo logit_bias"
    names += " messages frequency_penalty presence_penalty"
    nulls: dict[str, Any] = dict.fromkeys(names.split())
    neutral = {"echo": False, "logit_bias": {}, "frequency_penalty": 0, "repetition_penalty": 1.0}
    for body in (nulls, neutral, {"best_of": 1, "priority": 3}):
        reply = live.complete(**body)
        assert reply.status == 200, reply.body
        assert live.behaviour.requests[-1].max_tokens == 16


@pytest.mark.parametrize(
    "body", [b"", b"{", b'"text"', b"[1]", b"\xff\xfe", b"null", b"[" * 60_000]
)
def test_a_body_that_is_no_json_object_is_a_400(live: LiveServer, body: bytes) -> None:
    """Red when the body is taken for granted."""
    error(live.request("POST", "/v1/completions", body, content_type="application/json"), 400)


def test_a_wrong_content_type_is_told_the_right_one(live: LiveServer) -> None:
    reply = live.request("POST", "/v1/completions", b'{"prompt": "a"}', content_type="text/plain")
    assert "application/json" in error(reply, 400)["message"]


def test_a_request_without_a_prompt_is_a_400(live: LiveServer) -> None:
    reply = live.request("POST", "/v1/completions", b"{}", content_type="application/json")
    assert error(reply, 400)["param"] == "prompt"


def test_an_invalid_stream_is_refused_before_it_opens(live: LiveServer) -> None:
    """Red when a stream opens with 200 before its request has been checked."""
    error(live.complete(stream=True, prompt=[5] * WINDOW), 400)
    error(live.complete(stream=True, seed=404), 400)


def test_a_prompt_longer_than_the_window_says_so(live: LiveServer) -> None:
    found = error(live.complete(prompt=[5] * 300), 400)
    assert found["code"] == "context_length_exceeded"
    assert "256" in found["message"] and "300" in found["message"]


def test_unknown_models_paths_and_methods_are_enveloped(live: LiveServer) -> None:
    assert error(live.complete(model="gpt-9"), 404)["code"] == "model_not_found"
    assert error(live.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
    error(live.get("/nowhere"), 404)
    error(live.get("/v1/completions"), 405)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/api/v1/responses/", "/v1/responses"),
        ("/v1/infill", "/infill"),
        ("/v1/chat/completion", "/v1/chat/completions"),
    ],
)
def test_a_wrong_base_url_is_told_the_right_path(live: LiveServer, asked: str, meant: str) -> None:
    """Red when a client whose base URL is off learns nothing but that it is."""
    told = error(live.request("POST", asked, b"{}", content_type="application/json"), 404)
    assert f"Did you mean {meant}? Look at the base URL" in told["message"]
    assert asked in told["message"]


def test_a_path_like_no_other_is_told_where_to_look(live: LiveServer) -> None:
    """Red when a path is suggested that takes no such method, or that has nothing in common."""
    for method, path in (("GET", "/nowhere"), ("DELETE", "/completions")):
        told = error(live.request(method, path), 404)["message"]
        assert "Did you mean" not in told and "GET / tells what there is" in told


def test_a_model_can_be_listed_and_fetched_even_with_a_slash(start_server: StartServer) -> None:
    server = start_server(served_model_name="own/name").wait_ready()
    [card] = server.get("/v1/models").json()["data"]
    assert server.get("/v1/models/own/name").json() == card
    assert (card["id"], card["object"], card["max_model_len"]) == ("own/name", "model", WINDOW)
    assert server.complete(model="own/name").status == 200


def test_a_body_over_the_cap_is_a_413_by_its_header_and_by_its_length(
    start_server: StartServer,
) -> None:
    """Red when only an honest Content-Length is checked."""
    server = start_server(max_body_bytes=1000).wait_ready()
    error(server.complete(prompt="a" * 2000), 413)
    pieces = iter([b'{"prompt": "', b"a" * 2000, b'"}'])
    chunked = server.send("POST", "/v1/completions", pieces, content_type="application/json")
    assert chunked.response().status == 413
    assert "1000" in json.load(chunked.response())["error"]["message"]
    assert server.complete().status == 200


def test_a_key_guards_v1_and_nothing_else(start_server: StartServer) -> None:
    """Red when a probe needs the key, or a completion does not."""
    server = start_server(api_key="secret").wait_ready()
    assert error(server.get("/v1/models"), 401)["code"] == "invalid_api_key"
    error(server.complete(), 401)
    error(server.get("/v1/models", authorization="Bearer wrong"), 401)
    error(server.get("/v1/models", authorization="Bearer sécret"), 401)
    assert server.get("/v1/models", authorization="Bearer secret").status == 200
    assert {server.get(p).status for p in ("/health", "/ready", "/metrics", "/version")} == {200}


def test_a_request_id_is_kept_or_given(live: LiveServer) -> None:
    assert live.get("/health", x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    assert len(live.get("/health").headers["x-request-id"]) == 32
    assert live.get("/health", x_request_id="<bad>").headers["x-request-id"] != "<bad>"


def test_an_unexpected_exception_is_a_500_that_keeps_its_secrets(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when the inside of the server is told to a client."""

    def broken(request: object) -> list[list[int]]:
        raise KeyError("secret detail")

    server = start_server(Behaviour(broken)).wait_ready()
    reply = server.complete()
    assert reply.status == 500
    assert reply.json()["error"]["code"] == "internal_error" and b"secret" not in reply.body
    assert server.get("/ready").status == 200
