"""How long `/health` waits while somebody sends what is large: the longest of three times, each.

    python benchmarks/patience.py [--url http://localhost:8000]

A server must be running there. What is refused by its size must not be looked at first, and what is
read must not be read on the loop that answers everybody: the aim is less than 200 ms.
"""

import argparse
import http.client
import json
import threading
import time
from contextlib import closing
from urllib.parse import urlsplit

_MOST = 8 * 2**20 - 1000
_HEADERS = {"Content-Type": "application/json"}


def _listed(item: str, count: int) -> str:
    return '{"prompt": [' + ",".join([item] * count) + "]}"


BODIES = {
    "a prompt of 8 MiB": (
        "/v1/completions",
        json.dumps({"prompt": "hello world " * (_MOST // 12)}),
    ),
    "2.7 million ids": ("/v1/completions", _listed("7", _MOST // 3)),
    "a million ids": ("/v1/completions", _listed("7", 10**6)),
    "half a million ids": ("/v1/completions", _listed("7", 2**19)),
    "250,000 lists of one": ("/v1/completions", _listed("[7]", 250_000)),
    "60,000 lists of one": ("/v1/completions", _listed("[7]", 60_000)),
    "half a million stop strings": (
        "/v1/completions",
        json.dumps({"prompt": "a", "stop": ["a"] * 2**19}),
    ),
    "8 MB of bad words": (
        "/v1/completions",
        json.dumps({"prompt": "a", "bad_words": ["a b " * 4000] * 500}),
    ),
    "a chat of 8 MiB": (
        "/v1/chat/completions",
        json.dumps({"messages": [{"role": "user", "content": "a b " * (_MOST // 4)}]}),
    ),
    "a gap of 8 MiB": (
        "/infill",
        json.dumps({"input_prefix": "a b " * (_MOST // 8), "input_suffix": "c d " * 10**5}),
    ),
}


def longest_delay(address: str, path: str, body: str) -> tuple[float, int]:
    """Seconds that `/health` took at most while a body was sent three times, and its answer."""
    delays: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        with closing(http.client.HTTPConnection(address, timeout=60)) as probe:
            while not is_over.is_set():
                begun = time.monotonic()
                probe.request("GET", "/health")
                probe.getresponse().read()
                delays.append(time.monotonic() - begun)
                time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with closing(http.client.HTTPConnection(address, timeout=120)) as client:
            for _ in range(3):
                client.request("POST", path, body, _HEADERS)
                with client.getresponse() as response:
                    response.read()
    finally:
        is_over.set()
        watcher.join()
    return max(delays), response.status


def main() -> None:
    """Print a line for each body."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://localhost:8000")
    address = urlsplit(parser.parse_args().url).netloc
    for name, (path, body) in BODIES.items():
        delay, status = longest_delay(address, path, body)
        print(f"{name:30} {delay * 1e3:6.0f} ms   answered {status}", flush=True)


if __name__ == "__main__":
    main()
