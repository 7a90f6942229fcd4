"""What is large holds up nobody else: measured, and so among the slow tests."""

import http.client
import json
import threading
import time
from contextlib import closing

import pytest

from tests.server.command import Command

pytestmark = pytest.mark.slow
JSON = {"Content-Type": "application/json"}
MOST = 8 * 2**20 - 1000
LARGE = {
    "a prompt of 8 MiB": json.dumps({"prompt": "hello world " * (MOST // 12)}),
    "2.7 million ids": '{"prompt": [' + ",".join(["7"] * (MOST // 3)) + "]}",
    "half a million ids": '{"prompt": [' + ",".join(["7"] * 2**19) + "]}",
    "a million ids": '{"prompt": [' + ",".join(["7"] * 10**6) + "]}",
    "a chat of 8 MiB": json.dumps(
        {"messages": [{"role": "user", "content": "a b " * (MOST // 4)}]}
    ),
    "lists of one": '{"prompt": [' + ",".join(["[7]"] * 60_000) + "]}",
    "more lists of one": '{"prompt": [' + ",".join(["[7]"] * 250_000) + "]}",
    "a gap of 8 MiB": json.dumps(
        {"input_prefix": "a b " * (MOST // 8), "input_suffix": "c d " * 10**5}
    ),
    "words": json.dumps({"prompt": "a", "bad_words": ["a b " * 4000] * 500}),
    "a stop": json.dumps({"prompt": "a", "stop": ["a"] * 2**19}),
    "more to stop at": json.dumps({"prompt": "a", "stop": ["a"] * 10**6}),
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_health_is_answered_within_a_fifth_of_a_second_meanwhile(
    command: Command, body: str
) -> None:
    """Red when what is too large is looked at before it is refused, or on the loop itself."""
    path = "/v1/chat/completions" if "messages" in body[:20] else "/v1/completions"
    path = "/infill" if "input_prefix" in body[:20] else path
    delays: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", command.port, timeout=60)) as probe:
            while not is_over.is_set():
                begun = time.monotonic()
                probe.request("GET", "/health")
                assert probe.getresponse().read()
                delays.append(time.monotonic() - begun)
                time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with closing(http.client.HTTPConnection("127.0.0.1", command.port, timeout=120)) as client:
        for _ in range(3):
            client.request("POST", path, body, JSON)
            with client.getresponse() as response:
                assert response.status in (200, 400, 413), response.read()
                response.read()
    is_over.set()
    watcher.join()
    assert max(delays) < 0.2, f"{max(delays):.2f} s"
