"""Clients that people use, unmodified, each a program of its own: `pytest -m clients`.

`npm install --prefix tests/server/clients`, and `pip install litellm llm guidellm` in ours or in an
environment of Python that `TESTED_CLIENTS` names; what is not there is left out.
"""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.server.command import Command
from tests.server.conftest import wait_until
from tests.server.programs import program

pytestmark = pytest.mark.clients

PROMPT = "def hello("
FOLDER = Path(__file__).parent / "clients"


def run(*words: str, **environment: str) -> str:
    """What a client prints."""
    # Ours is not to be found by a client's interpreter, nor is anything to be told to anybody.
    own = {"PYTHONPATH": "", "DO_NOT_TRACK": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    found = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **own, **environment},
    )
    assert found.returncode == 0, found.stderr[-4000:] + found.stdout[-4000:]
    return found.stdout


def node(command: Command, script: str, package: str) -> Any:
    """What a script of ours for node tells."""
    if not (FOLDER / "node_modules" / package).is_dir():
        pytest.skip(f"{package} is not installed: npm install --prefix tests/server/clients")
    url = f"http://127.0.0.1:{command.port}/v1"
    return json.loads(run(program("node"), str(FOLDER / script), url, PROMPT))


@pytest.fixture
def expected(command: Command) -> dict[str, Any]:
    """What the server writes, by the client that the other tests use."""
    asked: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 24}
    said: list[Any] = [{"role": "user", "content": PROMPT}]
    chat = command.client.chat.completions.create(messages=said, **asked)
    whole = command.client.completions.create(prompt=PROMPT, **asked)
    assert chat.usage and chat.choices[0].message.content and whole.choices[0].text
    return {
        "chat": chat.choices[0].message.content,
        "said": chat.choices[0].message.content,
        "whole": whole.choices[0].text,
        "streamed": whole.choices[0].text,
        "usage": chat.usage.total_tokens,
        "tokens": chat.usage.completion_tokens,
    }


def test_openai_node(command: Command, expected: dict[str, Any]) -> None:
    """Red when a field that it reads is missing, or its stream helper cannot add chunks up."""
    told = node(command, "openai_client.mjs", "openai")
    assert told["models"] == ["tiny"]
    for name in ("chat", "said", "whole", "streamed", "usage"):
        assert told[name] == expected[name], name
    assert told["final"] == expected["chat"] and told["finalUsage"] == expected["usage"]
    assert told["refused"] == [400, "temperature", "BadRequestError"]


def test_the_ai_sdk(command: Command, expected: dict[str, Any]) -> None:
    """Red when its schemas refuse a reply or a chunk of ours."""
    told = node(command, "ai_client.mjs", "ai")
    assert told["chat"] == told["said"] == expected["chat"]
    assert told["usage"] == expected["tokens"] and told["finish"] == "length"
    # It writes roles into the prompt of a completion.
    assert told["whole"] == told["streamed"] != ""


def test_litellm(command: Command, expected: dict[str, Any]) -> None:
    """Red when it adds a field that is refused, or loses a chunk."""
    python = program("python")
    if subprocess.run(
        [python, "-c", "import litellm"], capture_output=True, check=False
    ).returncode:
        pytest.skip("litellm is not installed")
    url = f"http://127.0.0.1:{command.port}/v1"
    told = json.loads(run(python, str(FOLDER / "litellm_client.py"), url, PROMPT).splitlines()[-1])
    assert told == {name: expected[name] for name in told}


def test_llm(command: Command, expected: dict[str, Any], tmp_path: Path) -> None:
    """Red when the command `llm` cannot be pointed here."""
    llm = program("llm")
    url = f"http://127.0.0.1:{command.port}/v1"
    models = [
        {"model_id": "chatting", "model_name": "tiny", "api_base": url},
        {"model_id": "completing", "model_name": "tiny", "api_base": url, "completion": True},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    asked = ["-o", "max_tokens", "24", "-o", "temperature", "0", "--key", "none", "--no-log"]
    for model, name in (("chatting", "chat"), ("completing", "whole")):
        for streaming in ([], ["--no-stream"]):
            words = [llm, "-m", model, *asked, *streaming, PROMPT]
            told = run(*words, LLM_USER_PATH=str(tmp_path))
            assert told.rstrip("\n") == expected[name].rstrip("\n")


def test_guidellm(command: Command, tmp_path: Path) -> None:
    """Red when it cannot time a stream of ours, or finds other counts than we tell."""
    guidellm = program("guidellm")
    report = tmp_path / "report.json"
    run(
        *(guidellm, "run", "--disable-console", "--profile", "kind=synchronous"),
        *("--backend", f"kind=openai_http,target=http://127.0.0.1:{command.port},model=tiny"),
        *("--constraint", "kind=max_requests,count=3"),
        *("--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=8"),
        *("--tokenizer", f"kind=huggingface_auto,model={command.model}"),
        *("--output", f"kind=json,path={report}"),
        HF_HUB_OFFLINE="1",
    )
    told = json.loads(report.read_text())
    [benchmark] = told["benchmarks"]
    assert benchmark["metrics"]["request_totals"]["successful"] == 3


def test_prometheus_scrapes_the_figures(command: Command, tmp_path: Path) -> None:
    """Red when Debian's Prometheus refuses the exposition, or a dashboard's names are not there."""
    prometheus, promtool = program("prometheus"), program("promtool")
    with urllib.request.urlopen(f"http://127.0.0.1:{command.port}/metrics") as reply:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=reply.read(), capture_output=True, check=False
        )
    assert b"error" not in checked.stderr.lower(), checked.stderr
    command.complete(max_tokens=2)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    target = {"targets": [f"127.0.0.1:{command.port}"]}
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "stagetree", "static_configs": [target]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    words = [
        *(prometheus, f"--config.file={tmp_path / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            for name in ("up", "vllm:time_to_first_token_seconds_count", "http_requests_total"):
                wait_until(partial(_has_figure, port, name), seconds=30)
        finally:
            running.terminate()


def _has_figure(port: int, name: str) -> bool:
    """Whether Prometheus knows a figure of this name that is above 0."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(name)}"
    try:
        with urllib.request.urlopen(url) as reply:
            found = json.load(reply)["data"]["result"]
    except urllib.error.URLError:
        return False
    return any(float(each["value"][1]) > 0 for each in found)
