"""Who may come in, from where, and how long a door stays open: keys, origins, HEAD, waiting."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from engine import ConfigError
from server import run
from server.greeting import url_of
from server.protocol import CompletionRequest, InfillRequest
from server.settings import Settings
from tests.chats import PLAIN
from tests.server.conftest import LiveServer, StartServer, serving, wait_until
from tests.server.fakes import Behaviour, blocks
from tests.server.hostile import examples

SLOW = [*blocks("hello "), *blocks("world")]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with keys of both sources, which pages of one origin may ask."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# of the team\nfourth\n\nfifth\n")
    settings: dict[str, Any] = {"api_key": "first,second", "api_key_file": str(file)}
    origins = "https://chat.example.org"
    with serving(Behaviour(), **settings, allow_origin=origins) as server:
        yield server


@pytest.mark.parametrize("key", ["first", "second", "fourth", "fifth"])
def test_any_of_the_keys_opens(locked: LiveServer, key: str) -> None:
    """Red when a key of a file keeps its newline, or only the first is known."""
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client:
        assert client.completions.create(model="fake", prompt="a").choices[0].text
    for headers in (
        {"authorization": f"bearer {key}"},
        {"Authorization": f"BEARER  {key} "},
        {"x_api_key": key},
    ):
        assert locked.get("/v1/models", **headers).status == 200


@pytest.mark.parametrize("key", ["third", "", "# of the team", "first,second", "firs"])
def test_no_other_key_does(locked: LiveServer, key: str) -> None:
    """Red when a door is open that looks shut."""
    for headers in ({"authorization": f"Bearer {key}"}, {"x_api_key": key}, {}):
        for path in ("/v1/models", "/props", "/slots", "/tokenizer_info", "/no/such"):
            assert locked.get(path, **headers).status == 401
        for path in ("/v1/completions", "/infill", "/tokenize", "/detokenize"):
            assert locked.request("POST", path, b"{}", **headers).status == 401
    assert locked.get("/v1/models", authorization=f"Basic {key}").status == 401


def test_what_is_remembered_follows_the_key_if_it_is_to(start_server: StartServer) -> None:
    """Red when one client learns by the time that a reply takes what another has asked."""
    server = start_server(api_key="first,second", salt_by_key=True).wait_ready()
    for body in (b'{"prompt": "a"}', b'{"prompt": "a", "cache_salt": "s"}'):
        for key in ("first", "first", "second"):
            headers = {"content_type": "application/json", "x_api_key": key}
            assert server.request("POST", "/v1/completions", body, **headers).status == 200
    salts = [request.cache_salt for request in server.behaviour.requests]
    assert [salts.index(salt) for salt in salts] == [0, 0, 2, 3, 3, 5]
    assert not any("first" in str(salt) for salt in salts)


def test_probes_need_no_key(locked: LiveServer) -> None:
    for path in ("/", "/health", "/ping", "/ready", "/version", "/metrics", "/load"):
        assert locked.get(path).status == 200
        head = locked.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0


def test_a_page_of_an_allowed_origin_may_ask_and_no_other(locked: LiveServer) -> None:
    """Red when the first question of a browser, which has no key, is refused, or all may ask."""
    asked = {
        "access_control_request_method": "POST",
        "access_control_request_headers": "authorization,content-type",
    }
    good = locked.request("OPTIONS", "/v1/completions", origin="https://chat.example.org", **asked)
    assert good.status == 200
    assert good.headers["access-control-allow-origin"] == "https://chat.example.org"
    bad = locked.request("OPTIONS", "/v1/completions", origin="https://evil.example.org", **asked)
    assert bad.status == 400 and "access-control-allow-origin" not in bad.headers
    # A refusal is readable by the page, or it would see nothing but a network error.
    refused = locked.get("/v1/models", origin="https://chat.example.org")
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example.org"


def test_without_the_setting_no_page_may_ask(live: LiveServer) -> None:
    reply = live.get("/v1/models", origin="https://chat.example.org")
    assert "access-control-allow-origin" not in reply.headers


def test_a_file_without_a_key_is_no_way_to_have_none(tmp_path: Path) -> None:
    """Red when a server that was to ask for keys serves whoever comes."""
    empty = tmp_path / "empty"
    empty.write_text("# none yet\n\n")
    for path, told in ((empty, "has no key"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigError, match=told):
            Settings(model="fake", api_key_file=str(path)).keys()


def test_a_connection_outlasts_what_proxies_keep(start_server: StartServer) -> None:
    """Red when a proxy sends a request into a connection that is being closed."""
    assert run.config_of(start_server().pool, Settings(model="f")).timeout_keep_alive > 60  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box.local", "http://box.local:80"),
    ],
)
def test_the_greeting_names_an_address_that_works(host: str, url: str) -> None:
    assert url_of(host, 80) == url


def test_only_an_open_door_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Red when a server without a key listens everywhere without a word."""
    with caplog.at_level(logging.WARNING):
        for host in ("127.0.0.1", "::1", "localhost"):
            run.warn_if_open(Settings(model="f", host=host))
        run.warn_if_open(Settings(model="f", host="0.0.0.0", api_key="k"))
        assert not caplog.text
        run.warn_if_open(Settings(model="f", host="0.0.0.0"))
        assert "0.0.0.0 is open to whoever reaches this machine: set an api_key" in caplog.text


def test_a_stream_that_waits_has_its_headers_and_comments(start_server: StartServer) -> None:
    """Red when a proxy cuts what waits in the queue, since no byte has come."""
    behaviour = Behaviour(lambda _: SLOW, step_seconds=0.2, chat_templates={"default": PLAIN})
    server = start_server(behaviour, stream_wait_seconds=0.02).wait_ready()
    for ask in (server.complete, server.chat):
        reply = ask(stream=True, max_tokens=3)
        assert reply.status == 200
        first, *rest = [each for each in reply.body.decode().split("\n\n") if each]
        assert first == ": waiting" and rest[-1] == "data: [DONE]"
        assert any(each.startswith("data: {") for each in rest)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.completions.create(model="fake", prompt="a", stream=True, max_tokens=3)
        assert "".join(chunk.choices[0].text for chunk in chunks) == "hello "


def test_what_goes_wrong_in_a_stream_that_waited_is_an_event(start_server: StartServer) -> None:
    """Red when a time-out after the headers breaks the connection off."""
    behaviour = Behaviour(lambda _: SLOW, step_seconds=0.3)
    server = start_server(behaviour, stream_wait_seconds=0.02, queue_timeout=0.1).wait_ready()
    first = server.open_stream(max_tokens=9)
    wait_until(lambda: behaviour.num_running == 1)
    second = server.open_stream()
    told = second.response().read().decode()
    assert second.response().status == 200 and "queue_timeout" in told
    assert told.endswith("data: [DONE]\n\n")
    first.close()


def test_a_client_that_leaves_while_it_waits_is_forgotten(start_server: StartServer) -> None:
    """Red when an open stream that waits goes on waiting for nobody."""
    behaviour = Behaviour(lambda _: SLOW, step_seconds=0.3)
    server = start_server(behaviour, stream_wait_seconds=0.02).wait_ready()
    first = server.open_stream(max_tokens=9)
    wait_until(lambda: behaviour.num_running == 1)
    second = server.open_stream()
    assert second.response().status == 200
    assert server.pool.queue.num_waiting == 1
    second.close()
    wait_until(lambda: server.pool.queue.num_waiting == 0)
    first.close()


def test_the_page_of_the_api_needs_nothing_from_elsewhere(locked: LiveServer) -> None:
    """Red when it is blank without a network, or a parameter is not on it."""
    page = locked.get("/docs").body.decode()
    assert page.count("<pre>curl $URL/v1/completions ") == len(examples("/v1/completions"))
    assert "http://" not in page and "https://" not in page and "<script" not in page
    for path in ("/v1/completions", "/infill", "/tokenize", "/metrics"):
        assert f"{path}</code></h2>" in page
    for name in (*CompletionRequest.model_fields, *InfillRequest.model_fields):
        assert f"<code>{name}</code>" in page
    assert "number ≥ 0 ≤ 100" in page and "list of string" in page
