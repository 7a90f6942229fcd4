"""What nobody foresaw is answered, or refused with a reason: never our failure."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings

from tests.server.command import Command
from tests.server.conftest import serving_chats
from tests.server.hostile import ENDED_BY_DONE, Asked, requests
from tests.server.programs import program

OURS = ("internal_error", "engine_died")


def ask(port: int, asked: Asked) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the whole body of the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(asked.method, asked.path, asked.body, asked.headers)
        with connection.getresponse() as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()


def check(port: int, asked: Asked) -> None:
    """The answer to a request is no failure of the server's, and well made."""
    status, headers, body = ask(port, asked)
    told = (asked, status, body[:2000])
    if status == 503:
        assert "retry-after" in headers, told
    else:
        assert status < 500 and status != 422, told
    if asked.method == "HEAD":
        return
    if headers.get("content-type", "").startswith("text/event-stream"):
        events = [each for each in body.decode().split("\n\n") if each]
        if asked.path in ENDED_BY_DONE:
            assert events.pop() == "data: [DONE]", told
        for line in "\n".join(events).splitlines():
            if line.startswith("data: "):
                _check_told(line.removeprefix("data: "), told)
    elif headers.get("content-type") == "application/json":
        _check_told(body.decode(), told)


def _check_told(text: str, told: object) -> None:
    """Finite JSON, with no failure of ours and no reason that goes on for ever."""
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in {told}"))
    if isinstance(found, dict) and isinstance(error := found.get("error"), dict):
        assert error.get("code") not in OURS and 0 < len(error["message"]) < 3000, told


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A server of its own, whose requests cannot ask for minutes of work."""
    with serving_chats(tmp_path_factory.mktemp("hostile"), max_sequences=4) as command:
        yield command


@settings(max_examples=200)
@given(asked=requests())
def test_what_nobody_foresaw_is_answered_or_refused(command: Command, asked: Asked) -> None:
    """Red when any bytes at all reach code that did not expect them."""
    check(command.port, asked)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(asked=requests())
def test_ten_thousand_of_them_are(small: Command, asked: Asked) -> None:
    """Red as above, of what is rarer."""
    check(small.port, asked)


@pytest.mark.clients
@pytest.mark.timeout(1200)
def test_schemathesis_finds_no_failure_of_the_servers(small: Command) -> None:
    """Red when a body that /openapi.json allows, or nearly allows, breaks the server."""
    found = subprocess.run(
        [
            *(program("schemathesis"), "run", f"http://127.0.0.1:{small.port}/openapi.json"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "10", "--seed", "1", "--generation-database", "none"),
            *("--workers", "2", "--no-color"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-8000:]
