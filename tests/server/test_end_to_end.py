"""The command itself, with a real engine process decoding a tiny random model."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.checkpoints import save_checkpoint
from tests.server.conftest import wait_until
from tests.server.fakes import byte_level_tokenizer

COMMAND = [sys.executable, "-c", "from server.cli import app; app()"]
PROMPT = "def hello(world):\n    return world + 1\ndef hello("


class Command:
    """`stagetree serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        flags = ["--draft", str(folder / "draft"), "--dtype", "float32", "--threads", "1"]
        self.process = subprocess.Popen(
            [*COMMAND, "serve", str(folder / "target"), *flags, "--port", str(self.port)],
            env={**os.environ, "STAGETREE_SERVED_MODEL_NAME": "tiny"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reader.start()
        self.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0
        )

    def answers(self) -> bool:
        try:
            self.client.models.list()
        except openai.APIConnectionError:
            return False
        return True

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "".join(self.log)
        try:
            self.complete(max_tokens=1)
        except openai.APIError:
            return False
        return True

    def complete(self, **body: Any) -> Any:
        named = {"model": "tiny", "prompt": PROMPT, "max_tokens": 48, **body}
        return self.client.post("/completions", body=named, cast_to=object)

    def figures(self) -> dict[tuple[str, str], float]:
        """Every sample of /metrics by its name and stage."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return {(one.name, one.labels.get("stage", "")): one.value for one in samples}

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()
        self.client.close()
        return code


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("tiny")
    for seed, name in enumerate(("target", "draft")):
        save_checkpoint(folder / name, seed=seed, vocab_size=320, bos_token_id=0, eos_token_id=0)
    byte_level_tokenizer().inner.save(str(folder / "target" / "tokenizer.json"))
    command = Command(folder)
    yield command
    if command.process.poll() is None:
        command.stop(signal.SIGKILL)


def test_the_port_answers_before_the_weights_are_there(command: Command) -> None:
    """Red when the server waits for its engine."""
    wait_until(command.answers, seconds=30)
    with pytest.raises(openai.InternalServerError, match="not ready yet"):
        command.complete()
    wait_until(command.is_ready, seconds=60)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_speculation_changes_no_token(command: Command, temperature: float) -> None:
    """Red when a tree changes the text anywhere between engine and wire."""
    body = {"temperature": temperature, "seed": 5, "logprobs": 2, "return_token_ids": True}
    body |= {"ignore_eos": True}
    plain = command.complete(speculation="off", **body)
    drafted = command.complete(speculation="always", **body)
    assert drafted["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"]
    assert drafted["choices"][0]["text"] == plain["choices"][0]["text"]
    assert plain["metrics"]["speculative_decoding"]["num_draft_tokens"] == 0
    assert drafted["metrics"]["speculative_decoding"]["num_draft_tokens"] > 0
    assert drafted["usage"]["completion_tokens"] == 48


def test_a_stream_joins_to_the_whole_reply_and_the_figures_move(command: Command) -> None:
    """Red when the real engine's steps are folded wrongly, or a stage is not counted."""
    whole = command.complete(temperature=0, stop=["q"])
    stream = command.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=48, temperature=0, stop=["q"], stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == whole["choices"][0]["text"]
    samples = command.figures()
    assert samples["vllm:spec_decode_num_drafts_total", ""] > 0
    assert samples["stagetree_stage_proposed_total", "draft"] > 0
    assert samples["stagetree_stage_passes_total", "ngram"] > 0


def test_what_the_engine_process_imports_the_server_does_not(command: Command) -> None:
    """Red when a room of the server imports torch, however indirectly."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    server = Path(f"/proc/{command.process.pid}/maps").read_text()
    engines = [Path(f"/proc/{pid}/maps").read_text() for pid in command.children()]
    assert "libtorch" not in server and any("libtorch" in maps for maps in engines)


def test_a_client_that_leaves_frees_the_real_engine_at_once(command: Command) -> None:
    """Red when a real engine goes on for a client that has left."""
    stream = command.client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=450,
        stream=True,
        extra_body={"ignore_eos": True, "speculation": "off"},
    )
    before = command.figures()["vllm:generation_tokens_total", ""]
    next(iter(stream))
    stream.close()
    command.complete(max_tokens=1)
    assert command.figures()["vllm:generation_tokens_total", ""] - before < 400


def test_a_killed_engine_is_told_in_the_stream_and_replaced(command: Command) -> None:
    """Red when a crash ends a stream without a word, or is not mended."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    stream = command.client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    for pid in command.children():
        if "libtorch" in Path(f"/proc/{pid}/maps").read_text():
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="engine process ended"):
        list(stream)
    wait_until(command.is_ready, seconds=60)


def test_sigterm_ends_it_cleanly_and_leaves_no_process(command: Command) -> None:
    """Red when a signal leaves an engine process behind or a traceback in the log."""
    children = command.children()
    assert command.stop() == 0, "".join(command.log)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    log = "".join(command.log)
    assert "try: curl" in log and "ready:" in log and "Traceback" not in log


def test_the_servers_rooms_import_no_torch() -> None:
    script = (
        "import json, sys; import server.run, server.cli; "
        "from server.text import Tokenizer; print(json.dumps('torch' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(found.stdout) is False


def test_a_port_that_is_taken_ends_the_command_before_anything_is_loaded() -> None:
    """Red when weights are loaded before the port is known to be free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run([*COMMAND, "serve", "--port", port], capture_output=True, text=True)
    assert found.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr


def test_a_bad_setting_ends_the_command_with_its_remedy() -> None:
    found = subprocess.run([*COMMAND, "serve", "--dtype", "int4"], capture_output=True, text=True)
    assert found.returncode == 2
    assert "--dtype" in found.stderr and "Traceback" not in found.stderr
