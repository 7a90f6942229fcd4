"""`stagetree serve --devices cpu,cpu`: two real engine processes behind one real server."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from engine import EngineConfig, GenerateRequest, Output, SamplingParams
from engine.api import Engine
from tests.server.command import PROMPT, Command, save_family
from tests.server.conftest import wait_until
from tests.server.fakes import byte_level_tokenizer

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
NUM_TOKENS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def alone(folder: Path) -> Engine:
    """The one engine whose texts are those of all others."""
    return Engine.load(EngineConfig(str(folder / "target"), dtype="float32"))


@pytest.fixture(scope="module")
def command(folder: Path) -> Iterator[Command]:
    command = Command(folder, "--devices", "cpu,cpu", "--max-running", "1")
    yield command
    if command.process.poll() is None:
        command.stop(signal.SIGKILL)


class Reading:
    """A stream of many choices, which holds its engine until it is left; the first one is kept.

    Each engine has one seat here, and a share of the seats is all that either stream has.
    """

    def __init__(self, command: Command, seed: int) -> None:
        self._first: list[int] = []
        self._is_whole = False
        self._chunks = command.client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=NUM_TOKENS,
            seed=seed,
            n=100,
            stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        self.read_on()

    def read_on(self) -> None:
        """Take the next chunk."""
        choice = next(self._chunks).choices[0]
        if choice.index == 0:
            self._first += (choice.model_extra or {})["token_ids"]
            self._is_whole = choice.finish_reason is not None

    def first(self) -> list[int]:
        """The token ids of the first choice."""
        while not self._is_whole:
            self.read_on()
        return self._first

    def leave(self) -> None:
        """Give the engine back."""
        self._chunks.close()


def expected(alone: Engine, seed: int) -> list[int]:
    """The text of a request as one engine alone decodes it."""
    prompt = tuple(byte_level_tokenizer().encode(PROMPT))
    request = GenerateRequest(
        "r", prompt, NUM_TOKENS, SamplingParams(1.0, seed=seed), ignore_eos=True
    )
    steps = [item for item in alone.generate(request) if isinstance(item, Output)]
    return [token.token_id for step in steps for token in step.tokens]


def first_to_fail(streams: dict[int, Reading]) -> int:
    """Read them all in turns until one ends for the death of its engine; returns its key."""
    for key in itertools.cycle(streams):
        try:
            streams[key].read_on()
        except openai.APIError as error:
            assert "engine process ended" in str(error)
            return key
    raise AssertionError


def test_two_streams_run_at_the_same_time_and_each_is_the_text_of_one_engine(
    command: Command, alone: Engine
) -> None:
    """Red when the second stream waits for the first, or an engine decodes another text."""
    wait_until(command.answers, seconds=30)
    wait_until(lambda: command.states() == ["ready", "ready"], seconds=90)
    streams = [Reading(command, seed) for seed in (5, 6)]
    assert command.figures()["vllm:num_requests_running", ""] == 2
    texts = [stream.first() for stream in streams]
    assert texts == [expected(alone, seed) for seed in (5, 6)]
    assert texts[0] != texts[1]
    for stream in streams:
        stream.leave()
    assert len(command.engines()) == 2


def test_a_killed_engine_leaves_the_other_serving_and_comes_back(
    command: Command, alone: Engine
) -> None:
    """Red when a crash of one process is felt on the other, or is not mended."""
    streams = {seed: Reading(command, seed) for seed in (7, 8)}
    os.kill(command.engines()[0], signal.SIGKILL)
    dead = first_to_fail(streams)
    ((seed, living),) = ((seed, stream) for seed, stream in streams.items() if seed != dead)
    assert living.first() == expected(alone, seed)
    living.leave()
    assert command.is_ready()
    wait_until(lambda: command.states() == ["ready", "ready"], seconds=60)
    again = [Reading(command, seed) for seed in (7, 8)]
    assert command.figures()["vllm:num_requests_running", ""] == 2
    for stream in again:
        stream.leave()


def test_sigterm_ends_both(command: Command) -> None:
    """Red when a process outlives the server."""
    ready = ("engine 0: ready", "engine 1: ready")
    wait_until(lambda: all(line in "".join(command.log) for line in ready), seconds=120.0)
    children = command.children()
    assert len(children) >= 2 and command.stop() == 0, "".join(command.log)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    log = "".join(command.log)
    assert "Traceback" not in log and "engine 1: the process died" not in log
