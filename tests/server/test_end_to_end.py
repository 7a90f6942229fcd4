"""The command itself, with a real engine process decoding a tiny random model."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import typer
from openai import AsyncOpenAI
from tokenizers import Tokenizer as RawTokenizer
from typer.testing import CliRunner

from server.cli import app
from tests.server.command import (
    COMMAND,
    NUM_SEATS,
    PROMPT,
    Command,
    mapped,
    run,
    save_family,
    stream_of,
    text_of,
)
from tests.server.conftest import wait_until
from tests.server.fakes import byte_level_tokenizer


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = save_family(tmp_path_factory.mktemp("tiny"))
    tokenizer = RawTokenizer.from_file(str(folder / "target" / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.save(str(folder / "target" / "tokenizer.json"))
    flags = ("--draft", str(folder / "draft"), "--max-running", str(NUM_SEATS))
    command = Command(folder, *flags)
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


def test_what_the_tokenizers_file_keeps_cuts_no_prompt(command: Command) -> None:
    """Red when the server reads a tokenizer.json as it stands: this one says to cut at 16."""
    reply = command.complete(prompt=PROMPT * 4, max_tokens=1)
    num_tokens = len(byte_level_tokenizer().inner.encode(PROMPT * 4).ids)
    assert reply["usage"]["prompt_tokens"] == num_tokens > 16


def test_what_the_engine_process_imports_the_server_does_not(command: Command) -> None:
    """Red when a room of the server imports torch, however indirectly."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    assert "libtorch" not in mapped(command.process.pid) and command.engines()


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


def test_a_killed_engine_costs_what_ran_and_nothing_that_waited(command: Command) -> None:
    """Red when a crash ends a stream without a word, takes the queue with it, or is not mended."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")

    async def scenario(client: AsyncOpenAI) -> None:
        alone = [await text_of(client, seed=seed, max_tokens=20) for seed in range(6)]
        running = [await stream_of(client, seed=9, max_tokens=450) for _ in range(NUM_SEATS)]
        waiting = [
            asyncio.create_task(text_of(client, seed=seed, max_tokens=20)) for seed in range(6)
        ]
        await asyncio.sleep(0.05)
        for pid in command.engines():
            os.kill(pid, signal.SIGKILL)
        for stream in running:
            with pytest.raises(openai.APIError, match="engine process ended"):
                async for _ in stream:
                    pass
        assert await asyncio.gather(*waiting) == alone

    run(command, scenario)
    wait_until(command.is_ready, seconds=60)


def test_sigterm_ends_it_cleanly_and_leaves_no_process(command: Command) -> None:
    """Red when a signal leaves an engine process behind or a traceback in the log."""
    children = command.children()
    assert command.stop() == 0, "".join(command.log)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    log = "".join(command.log)
    assert "ready:" in log and "Traceback" not in log
    # What is served, and how to try it, is told once it is known to be there.
    assert log.index(" listens on ") < log.index("stagetree serves tiny") < log.index("try: curl")


def test_a_second_signal_cuts_what_runs_and_ends_the_server(tmp_path: Path) -> None:
    """Red when a server that was told twice goes on for ever, or says a traceback."""
    command = Command(save_family(tmp_path))
    wait_until(command.answers, seconds=30)
    wait_until(command.is_ready, seconds=60)
    stream = command.client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=400,
        n=40,
        stream=True,
        extra_body={"ignore_eos": True, "speculation": "off"},
    )
    next(iter(stream))
    command.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "finishing what is running" in "".join(command.log))
    assert command.stop() == 0, "".join(command.log)
    with pytest.raises(openai.APIError):
        list(stream)
    log = "".join(command.log)
    assert "stopping now" in log and "Traceback" not in log


def test_a_port_that_is_taken_ends_the_command_before_anything_is_loaded() -> None:
    """Red when weights are loaded before the port is known to be free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = subprocess.run([*COMMAND, "serve", "--port", port], capture_output=True, text=True)
    assert found.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr


@pytest.mark.parametrize("words", [["serve", "--port", "0"], ["complete", "x", "--model"]])
def test_a_model_that_cannot_be_loaded_ends_the_command_in_one_line(
    tmp_path: Path, words: list[str]
) -> None:
    """Red when it is tried again, or told in a traceback, or the command stays."""
    folder = save_family(tmp_path) / "target"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    found = subprocess.run([*COMMAND, *words, str(folder)], capture_output=True, text=True)
    assert found.returncode != 0
    lines = found.stderr.splitlines()
    told = [line for line in lines if " listens on " not in line]
    *logged, last = told
    assert all(" INFO engine 0: starting the engine process" in line for line in logged)
    assert last.startswith("error: "), found.stderr
    assert found.stdout == ""


def test_a_bad_setting_ends_the_command_with_its_remedy() -> None:
    found = subprocess.run([*COMMAND, "serve", "--dtype", "int3"], capture_output=True, text=True)
    assert found.returncode == 2
    assert "--dtype" in found.stderr and "Traceback" not in found.stderr


def test_whatever_a_command_starts_finds_no_modules_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when torch's compilers, which training starts as `python -c`, run planted ones."""
    seen: list[str | None] = []
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(typer, "echo", lambda text: seen.append(os.environ.get("PYTHONSAFEPATH")))
    assert CliRunner().invoke(app, ["version"]).exit_code == 0
    assert seen == ["1"] and "PYTHONSAFEPATH" not in os.environ
