"""What /metrics says after requests whose every figure is known."""

import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.text import Tokenizer
from tests.server.conftest import LiveServer, StartServer, wait_until
from tests.server.fakes import WINDOW, Behaviour

Samples = dict[tuple[str, str], float]


def scrape(server: LiveServer) -> Samples:
    """Every sample by its name and its label beside the model's."""
    text = server.get("/metrics").body.decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model_name", "fake") == "fake"
            found[sample.name, ",".join(labels.values())] = sample.value
    return found


def test_a_scripted_request_moves_every_figure_exactly(start_server: StartServer) -> None:
    """Red when any figure is counted twice, not at all, or under another name."""
    # Two steps of three tokens: each accepted two drafts of a tree of eight nodes.
    script = [[5, 6, 7], [8, 9, 10]]
    server = start_server(Behaviour(lambda request: script)).wait_ready()
    before = scrape(server)
    assert server.complete(prompt=[1, 2, 3, 4], max_tokens=6).status == 200
    after = scrape(server)
    moved = {key: value - before.get(key, 0.0) for key, value in after.items()}
    expected = {
        ("vllm:spec_decode_num_drafts_total", ""): 2,
        ("vllm:spec_decode_num_draft_tokens_total", ""): 14,
        ("vllm:spec_decode_num_accepted_tokens_total", ""): 4,
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", "0"): 2,
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", "1"): 2,
        ("vllm:prompt_tokens_total", ""): 4,
        ("vllm:prefix_cache_queries_total", ""): 4,
        ("vllm:prefix_cache_hits_total", ""): 3,
        ("vllm:generation_tokens_total", ""): 6,
        ("vllm:request_success_total", "length"): 1,
        ("vllm:time_to_first_token_seconds_count", ""): 1,
        ("vllm:request_time_per_output_token_seconds_count", ""): 1,
        ("vllm:e2e_request_latency_seconds_count", ""): 1,
        ("vllm:request_queue_time_seconds_count", ""): 1,
        ("vllm:request_inference_time_seconds_count", ""): 1,
        ("vllm:request_prefill_time_seconds_count", ""): 1,
        ("vllm:request_decode_time_seconds_count", ""): 1,
        ("vllm:inter_token_latency_seconds_count", ""): 1,
        ("vllm:request_prompt_tokens_sum", ""): 4,
        ("vllm:request_generation_tokens_sum", ""): 6,
        ("vllm:request_max_num_generation_tokens_sum", ""): 6,
        ("vllm:request_params_n_sum", ""): 1,
        ("vllm:request_params_max_tokens_sum", ""): 6,
        ("http_request_duration_seconds_count", "/v1/completions,POST"): 1,
        ("stagetree_time_to_first_token_seconds_count", ""): 1,
        ("stagetree_time_per_output_token_seconds_count", ""): 1,
        ("stagetree_request_seconds_count", ""): 1,
        ("stagetree_queue_seconds_count", ""): 1,
        ("stagetree_acceptance_length_sum", ""): 3,
        ("stagetree_acceptance_length_count", ""): 1,
        ("stagetree_step_seconds_count", ""): 2,
        ("stagetree_step_texts_sum", ""): 2,
        ("stagetree_tree_nodes_sum", ""): 16,
        ("stagetree_stage_proposed_total", "draft"): 10,
        ("stagetree_stage_accepted_total", "draft"): 4,
        ("stagetree_stage_passes_total", "draft"): 4,
        ("stagetree_stage_guesses_total", "ngram"): 8,
        ("stagetree_stage_confirmed_total", "ngram"): 6,
        ("stagetree_step_accepted_sum", "draft"): 4,
        ("stagetree_step_passes_sum", "draft"): 4,
    }
    assert {key: moved.get(key) for key in expected} == expected
    assert abs(moved["stagetree_step_seconds_sum", ""] - 0.008) < 1e-9
    assert abs(moved["stagetree_stage_seconds_total", "draft"] - 0.002) < 1e-9
    assert after["vllm:num_requests_running", ""] == after["vllm:num_requests_waiting", ""] == 0
    assert after["vllm:kv_cache_usage_perc", "0"] == 0
    assert after["process_open_fds", ""] > 0 and after["process_resident_memory_bytes", ""] > 0


def test_the_room_of_an_engine_is_filled_by_all_its_texts(start_server: StartServer) -> None:
    """Red when one text's end empties the gauge, or a share is of one seat."""
    behaviour = Behaviour(lambda request: [[5, 6]] * 100, step_seconds=0.02, num_seats=4)
    server = start_server(behaviour).wait_ready()
    long, other = (server.open_stream(prompt=[1] * 100, max_tokens=150) for _ in range(2))
    for stream in (long, other):
        stream.response().readline()
    both = scrape(server)["vllm:kv_cache_usage_perc", "0"]
    assert 200 / (4 * WINDOW) < both < 0.5
    other.close()
    wait_until(lambda: behaviour.num_running == 1)
    assert 100 / (4 * WINDOW) < scrape(server)["vllm:kv_cache_usage_perc", "0"] < 0.25


def test_gauges_show_a_request_while_it_runs(start_server: StartServer) -> None:
    """Red when the gauges routers balance by stand still."""
    script = [[5, 6]] * 100
    server = start_server(Behaviour(lambda request: script, step_seconds=0.02)).wait_ready()
    stream = server.open_stream(max_tokens=200)
    stream.response().readline()
    during = scrape(server)
    stream.close()
    assert during["vllm:num_requests_running", ""] == 1
    assert 0 < during["vllm:kv_cache_usage_perc", "0"] < 1


def test_latency_buckets_begin_at_half_a_millisecond(live: LiveServer) -> None:
    """Red when fast steps all fall into the first bucket."""
    text = live.get("/metrics").body.decode()
    for name in ("stagetree_step_seconds", "vllm:request_time_per_output_token_seconds"):
        assert f'{name}_bucket{{le="0.0005",model_name="fake"}}' in text
    assert "_created" not in text


def test_every_answer_is_counted_and_refusals_are_logged(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a refusal moves no figure and leaves no line, or strangers make series."""
    server = start_server().wait_ready()
    with caplog.at_level(logging.INFO):
        server.complete()
        server.complete(temperature=-1)
        server.complete(model="another")
        server.request("HEAD", "/health")
        for path in ("/a", "/b"):
            server.get(path)
        server.request("BREW", "/coffee")
        refused = server.request("POST", "/v1/completions", b"{", x_request_id="mine-1")
    assert refused.status == 400
    told = {key: value for key, value in scrape(server).items() if key[0] == "http_requests_total"}
    of = {labels: value for (_, labels), value in told.items()}
    assert of["/v1/completions,POST,200"] == 1 and of["/v1/completions,POST,404"] == 1
    assert of["/v1/completions,POST,400"] == 2
    assert of["none,GET,404"] == 2 and of["none,none,404"] == 1
    assert not any("coffee" in labels or "/a" in labels for labels in of)
    told = "mine-1: POST /v1/completions was answered 400: The body must be a JSON object"
    assert told in caplog.text
    assert "coffee" not in caplog.text


def test_what_never_reaches_its_route_is_counted_and_logged_too(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a wrong key, a body too large, a HEAD or a failure of ours passes unseen."""
    server = start_server(api_key="key", max_body_bytes=1000).wait_ready()
    monkeypatch.setattr(Tokenizer, "decode_all", lambda *_: 1 // 0)
    asked = {"authorization": "Bearer key", "content_type": "application/json"}
    with caplog.at_level(logging.INFO):
        server.get("/v1/models", x_request_id="locked-1")
        server.request("POST", "/detokenize", b"x" * 2000, **asked, x_request_id="large-1")
        assert server.request("HEAD", "/health").status == 200
        failed = server.request("POST", "/detokenize", b'{"tokens": [5]}', **asked)
    told = {labels for name, labels in scrape(server) if name == "http_requests_total"}
    assert {"none,GET,401", "none,POST,413", "/health,HEAD,200", "/detokenize,POST,500"} <= told
    assert "locked-1: GET none was answered 401: The API key is missing" in caplog.text
    assert "large-1: POST none was answered 413: The body is larger" in caplog.text
    assert failed.json()["error"]["code"] == "internal_error"
    assert f"{failed.headers['x-request-id']}: POST /detokenize was answered 500" in caplog.text
    assert "ZeroDivisionError" in caplog.text
