"""The engine process: real ones, spawned, over a real socket; loading, cancelling, dying."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine import (
    EngineConfig,
    EngineDiedError,
    EngineError,
    EngineProcess,
    Finished,
    GenerateRequest,
    InvalidRequestError,
    LoadProgress,
    ModelInfo,
    ModelLoadError,
    Output,
    SamplingParams,
)
from engine.api import Engine
from engine.process import worker
from engine.process.messages import (
    Beat,
    Cancel,
    Close,
    Generate,
    Order,
    Stepped,
    Unloadable,
    decode_event,
)
from engine.process.pulse import Pulse
from engine.process.worker import Worker
from tests.checkpoints import save_checkpoint
from tests.engine.planted import plant
from tests.engine.test_scratch import abandoned
from tests.engine.test_tokenizer import byte_level

LONG = GenerateRequest("long", (1, 2, 3), 450, SamplingParams(seed=1), ignore_eos=True)
SHORT = GenerateRequest("short", (1, 2, 3), 12, SamplingParams(seed=1), ignore_eos=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    folder = tmp_path_factory.mktemp("models")
    stages = [
        {"kind": "model", "model": str(save_checkpoint(folder / "draft", seed=0, hidden_size=32))},
        {"kind": "ngram"},
    ]
    model = str(save_checkpoint(folder / "target", seed=0, hidden_size=32))
    given = {"model": model, "stages": stages, "threads": 1, "dtype": "float32"}
    return EngineConfig.from_mapping(given)


@asynccontextmanager
async def running(config: EngineConfig) -> AsyncIterator[EngineProcess]:
    process = EngineProcess(config)
    await process.start()
    try:
        yield process
    finally:
        await process.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """In which the process of several tests is asked and watched."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def process(config: EngineConfig, loop: asyncio.Runner) -> Iterator[EngineProcess]:
    """One of three seats, for tests that leave it as it was."""

    async def started() -> EngineProcess:
        process = EngineProcess(replace(config, max_running=3))
        await process.start()
        await process.wait_ready()
        return process

    process = loop.run(started())
    yield process
    loop.run(process.close())


async def collect(process: EngineProcess, request: GenerateRequest) -> list[Output | Finished]:
    """What came of a request, as `engine.api` has it."""
    updates = [update async for update in process.generate(request)]
    told = [part for update in updates for part in (update.output, update.finished)]
    return [part for part in told if part is not None]


def ids(items: list[Output | Finished]) -> list[int]:
    return [token.token_id for item in items if isinstance(item, Output) for token in item.tokens]


def test_it_loads_answers_and_says_what_it_is(config: EngineConfig) -> None:
    async def scenario() -> None:
        async with running(config) as process:
            assert process.progress.progress < 1
            info = await process.wait_ready()
            assert info.stages == ("draft", "ngram")
            assert (info.vocab_size, info.max_model_len, info.dtype) == (64, 512, "float32")
            assert process.progress.phase == "timing passes"
            mode = stat.S_IMODE(os.stat(process._child.folder).st_mode)
            assert mode == 0o700
            # A draft as large as its target does not pay, and would not be asked.
            first = await collect(process, replace(SHORT, speculation="always"))
            assert isinstance(first[-1], Finished)
            assert first[-1].reason == "length"
            assert first[-1].stats.stages["draft"].num_accepted > 0
            assert ids(await collect(process, SHORT)) == ids(first)
            assert ids(first) == ids(list(Engine.load(config).generate(SHORT)))
        assert not Path(process._child.folder).exists()

    asyncio.run(scenario())


def test_closing_the_stream_frees_the_engine_within_a_step(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    async def scenario() -> None:
        stream = process.generate(LONG)
        async for _ in stream:
            break
        started = time.monotonic()
        await stream.aclose()
        assert time.monotonic() - started < 2.0
        assert len(ids(await collect(process, SHORT))) == 12

    loop.run(scenario())


def test_cancel_ends_the_stream_and_is_idempotent(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    async def scenario() -> None:
        items = []
        async for update in process.generate(LONG):
            items.append(update.output or update.finished)
            process.cancel("long")
            process.cancel("another")
        assert isinstance(items[-1], Finished)
        assert items[-1].reason == "cancelled"
        assert len(ids(items)) < 300
        process.cancel("long")
        assert len(ids(await collect(process, SHORT))) == 12

    loop.run(scenario())


def test_a_request_that_cannot_run_is_an_error_and_the_engine_lives(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidRequestError, match="exceed the window"):
            await collect(process, GenerateRequest("x", (1,), 5000))
        assert len(ids(await collect(process, SHORT))) == 12

    loop.run(scenario())


def test_it_runs_nothing_of_the_working_folder_and_leaves_nothing_among_the_temporary_files(
    config: EngineConfig,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for one folder while it lives. Red when it is started without the safe path, or with what
    its parent's path has; when torch looks for code where anybody can put it; or when what was
    killed leaves sockets."""
    left = abandoned(tmp_path)
    ran = plant(tmp_path_factory.mktemp("planted"), monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    async def scenario() -> None:
        async with running(config) as process:
            assert not left.exists()
            await process.wait_ready()
            assert [*tmp_path.iterdir()] == [process._child.folder]

    asyncio.run(scenario())
    assert not [*tmp_path.iterdir()]
    assert not ran.exists(), ran.read_text()


def test_no_room_for_its_socket_is_a_death_that_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the folder of temporary files, gone for a moment, ends all trying."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))

    async def scenario() -> None:
        process = EngineProcess(EngineConfig(model="x"))
        with pytest.raises(EngineDiedError, match="gone"):
            await process.start()
        assert "gone" in await process.wait_died()
        await process.close()

    asyncio.run(scenario())


def test_the_tokenizer_is_read_over_there_and_only_when_it_is_asked_for(
    config: EngineConfig, process: EngineProcess, loop: asyncio.Runner
) -> None:
    """Red when an engine cannot serve ids without a tokenizer, or dies for want of one."""

    async def scenario() -> None:
        with pytest.raises(ModelLoadError, match="no usable tokenizer"):
            await process.read_tokenizer()
        byte_level().save(f"{config.model}/tokenizer.json")
        state = await process.read_tokenizer()
        assert Tokenizer.from_str(state.json).encode("hello").ids
        assert len(ids(await collect(process, SHORT))) == 12

    loop.run(scenario())


class Ear:
    """The socket of a worker: what it says is kept."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def send(self, message: bytes) -> None:
        self.heard.append(decode_event(message))


def test_an_unexpected_error_of_loading_is_told_with_its_traceback(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when it ends the process without a word, which would be tried again in vain."""

    def fail(*_: object) -> None:
        raise RuntimeError("no such\nop")

    monkeypatch.setattr(Engine, "load", fail)
    ear = Ear()
    Worker(ear).run(config)  # type: ignore[arg-type]
    [told] = ear.heard
    assert isinstance(told, Unloadable)
    assert told.message == "RuntimeError: no such op"
    assert "Traceback" in told.traceback and "in fail" in told.traceback


def test_a_pulse_beats_while_work_may_last_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when an engine that is stuck is never found out, or a slow one is taken for dead."""
    monkeypatch.setattr("engine.process.pulse.BEAT_SECONDS", 0.01)
    beats: list[None] = []
    with Pulse(lambda: beats.append(None)) as pulse:
        time.sleep(0.05)
        assert not beats
        pulse.expect(60.0)
        time.sleep(0.1)
        assert beats
        pulse.expect(-1.0)
        time.sleep(0.05)
        num_heard = len(beats)
        time.sleep(0.05)
        assert len(beats) == num_heard
        pulse.expect(60.0)
    num_heard = len(beats)
    time.sleep(0.05)
    assert len(beats) == num_heard


@pytest.mark.parametrize("computes", [True, False])
def test_what_gets_on_is_alive_and_what_waits_for_nothing_is_not(
    computes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a long download is taken for a hang, or loading may hang for ever."""
    if not computes and not Path("/proc/self/io").exists():
        pytest.skip("only Linux tells what a process has written")
    used, gets_on = count(), [True]

    def process_time() -> int:
        if gets_on and not computes:
            (tmp_path / "part").write_bytes(bytes(2**20))
        return next(used) if gets_on and computes else 0

    monkeypatch.setattr("engine.process.pulse.BEAT_SECONDS", 0.01)
    monkeypatch.setattr(time, "process_time", process_time)
    beats: list[None] = []
    with Pulse(lambda: beats.append(None)) as pulse:
        pulse.expect_progress(0.1)
        time.sleep(0.4)
        num_heard = len(beats)
        time.sleep(0.2)
        assert len(beats) > num_heard
        gets_on.clear()
        time.sleep(0.4)
        num_heard = len(beats)
        time.sleep(0.1)
        assert len(beats) == num_heard


class Refreshing:
    """An engine that has passes to take over, until it was heard to be alive."""

    is_busy = False
    info = ModelInfo("x", 1, 1, (), "float32", "cpu", 1, (), is_compiling=True)

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    def refresh(self) -> ModelInfo:
        for _ in range(1000):
            if Beat() in self._ear.heard:
                raise KeyboardInterrupt
            time.sleep(0.01)
        raise TimeoutError


def test_a_worker_beats_while_its_engine_takes_passes_over(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when it is silent meanwhile, which its server takes for its death."""
    monkeypatch.setattr("engine.process.pulse.BEAT_SECONDS", 0.01)
    ear = Ear()
    monkeypatch.setattr(Engine, "load", lambda *_: Refreshing(ear))
    monkeypatch.setattr(Worker, "_listen", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        Worker(ear).run(config)  # type: ignore[arg-type]


class Scripted:
    """An engine whose texts end when a test says so; it has passes to take over."""

    info = Refreshing.info

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.done: list[str] = []

    @property
    def is_busy(self) -> bool:
        return bool(self.texts)

    def add(self, request: GenerateRequest) -> None:
        self.texts.append(request.request_id)
        self.done.append(request.request_id)

    def cancel(self, request_id: str) -> None:
        self.texts.remove(request_id)
        self.done.append(f"cancel {request_id}")

    def refresh(self) -> ModelInfo:
        self.done.append("refresh")
        return self.info

    def step(self) -> list[Output | Finished]:
        return []


def served(monkeypatch: pytest.MonkeyPatch, *script: list[Order]) -> tuple[Scripted, Ear]:
    """What comes of orders, those of one step after another, while passes are overdue."""
    engine, ear, steps = Scripted(), Ear(), iter([*script, [Close()]])
    monkeypatch.setattr("engine.process.worker._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(Engine, "load", lambda *_: engine)
    monkeypatch.setattr(Worker, "_listen", lambda self, _: self._orders.extend(next(steps)))
    Worker(ear).run(EngineConfig(model="x"))  # type: ignore[arg-type]
    return engine, ear


def asked(name: str) -> Generate:
    return Generate(replace(SHORT, request_id=name))


def test_passes_are_taken_over_under_a_load_that_never_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when there is always a text in some seat, so that passes stay slow for ever."""
    monkeypatch.setattr("engine.process.worker._makes_pause", lambda age: True)
    a, b, c = map(asked, "abc")
    engine, _ = served(monkeypatch, [a], [b], [c], [Cancel("a")], [])
    assert engine.done[-4:] == ["cancel a", "refresh", "b", "c"]


def test_a_pause_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when one long text keeps the other seats empty."""
    answers = iter([True, False, True, True])
    monkeypatch.setattr("engine.process.worker._makes_pause", lambda age: next(answers))
    engine, _ = served(monkeypatch, [asked("a")], [asked("b")], [], [])
    assert engine.done == ["refresh", "a", "b"]


def test_who_leaves_while_a_pause_is_made_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a text is written for nobody, or its handle waits for an end that is not told."""
    monkeypatch.setattr("engine.process.worker._makes_pause", lambda age: True)
    engine, ear = served(monkeypatch, [asked("a")], [asked("b")], [Cancel("b")], [Cancel("a")], [])
    assert "b" not in engine.done
    [ended] = [told for told in ear.heard if isinstance(told, Stepped)]
    [update] = ended.updates
    assert update.finished is not None
    assert (update.request_id, update.finished.reason) == ("b", "cancelled")


def test_pauses_are_made_for_a_short_while_after_a_long_one() -> None:
    """Red when who comes waits as soon as something is compiled, or for as long as it is."""
    held = [age for age in range(100) if worker._makes_pause(float(age))]
    assert held == [31, 32, 60, 61, 62, 90, 91, 92]


class Ending:
    """What ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return sys.exit, (3,)


def test_a_process_that_ends_by_itself_while_it_loads_is_no_death_to_try_again() -> None:
    """Red when what will end alike each time counts as a crash."""

    async def scenario() -> None:
        async with running(EngineConfig(model=Ending())) as process:  # type: ignore[arg-type]
            with pytest.raises(ModelLoadError, match="ended with exit code 3"):
                await process.wait_ready()

    asyncio.run(scenario())


def test_weights_that_are_not_there_are_a_load_error_with_a_remedy(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = EngineConfig.from_mapping({"model": str(tmp_path / "nothing")})
        async with running(config) as process:
            with pytest.raises(ModelLoadError, match=r"nothing.*Hugging Face id"):
                await process.wait_ready()
            await process.wait_died()

    asyncio.run(scenario())


def test_a_process_that_hangs_as_it_loads_is_ended_and_why_is_told(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a server waits for ever for a model that will never be there."""
    monkeypatch.setattr("engine.process.handle.LOADING_SILENCE_SECONDS", 2.5)

    async def scenario() -> None:
        async with running(config) as process:
            os.kill(process._child.process.pid or 0, signal.SIGSTOP)
            with pytest.raises(EngineDiedError, match="exit code -9: it said nothing for"):
                await process.wait_ready()

    asyncio.run(scenario())


def test_a_silent_process_is_taken_for_dead_and_a_machine_that_has_paused_kills_nothing(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when what was silent because nothing ran is taken for dead: a lid that was closed; when
    an idle engine is; or when one that hangs is not."""
    monkeypatch.setattr("engine.process.handle.SILENCE_SECONDS", 2.5)

    async def scenario() -> None:
        async with running(config) as process:
            await process.wait_ready()
            await asyncio.sleep(1.0)  # so that it is being watched
            pid = process._child.process.pid or 0
            with monkeypatch.context() as patch:
                patch.setattr("engine.process.child._LATE_SECONDS", 0.5)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(4.0)  # nor does this loop run
                os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(1.0)
            assert len(ids(await collect(process, SHORT))) == 12
            await asyncio.sleep(3.5)
            assert not process._answers.died.done(), "an idle engine must show that it is alive"
            os.kill(pid, signal.SIGSTOP)
            assert "exit code -9" in await asyncio.wait_for(process.wait_died(), 10)

    asyncio.run(scenario())


def test_the_engine_process_does_not_outlive_a_killed_parent(config: EngineConfig) -> None:
    program = f"""
import asyncio, sys
from engine import EngineConfig, EngineProcess
async def main():
    process = EngineProcess(EngineConfig.from_mapping({{"model": {config.model!r}}}))
    await process.start()
    await process.wait_ready()
    print(process._child.process.pid, flush=True)
    await asyncio.sleep(60)
if __name__ == "__main__":
    asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not is_alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the engine process was left behind")


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_progress_starts_before_anything_is_loaded() -> None:
    async def scenario() -> None:
        process = EngineProcess(EngineConfig(model="x"))
        assert process.progress == LoadProgress("starting the engine process", 0.0)

    asyncio.run(scenario())


def test_a_request_to_a_process_that_has_just_died_is_an_error_and_never_waits(
    config: EngineConfig,
) -> None:
    """Before its exit is noticed there is no peer to take the message."""

    async def scenario() -> None:
        async with running(config) as process:
            await process.wait_ready()
            os.kill(process._child.process.pid or 0, signal.SIGKILL)
            with pytest.raises(EngineDiedError):
                await asyncio.wait_for(collect(process, SHORT), 5)

    asyncio.run(scenario())


def test_closing_while_loading_is_quick_and_leaves_nothing(config: EngineConfig) -> None:
    async def scenario() -> None:
        process = EngineProcess(config)
        await process.start()
        await asyncio.wait_for(process.close(), 3)
        assert not Path(process._child.folder).exists()

    asyncio.run(scenario())


def test_a_temporary_folder_with_a_long_name_is_no_obstacle(
    config: EngineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a Unix socket has about a hundred characters at most."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    async def scenario() -> None:
        async with running(config) as process:
            await process.wait_ready()

    asyncio.run(scenario())


def test_requests_may_wait_over_there_and_the_last_output_comes_with_the_end(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    """Red when a second request is refused, mixed up with the first, or its end told too late."""

    async def scenario() -> None:
        requests = [replace(SHORT, request_id=name) for name in "ab"]
        first, second = await asyncio.gather(*(collect(process, each) for each in requests))
        assert ids(first) == ids(second) and len(ids(first)) == 12
        assert {item.request_id for item in second} == {"b"}
        *_, last = [update async for update in process.generate(SHORT)]
        assert last.output is not None and last.finished is not None
        with pytest.raises(EngineError, match="another request has the id 'long'"):
            async for _ in process.generate(LONG):
                await collect(process, LONG)

    loop.run(scenario())


def test_requests_that_run_at_once_are_each_what_they_are_alone(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    """Red when what is told of one goes to another, or one waits for another's end."""
    requests = [
        replace(LONG, request_id=str(seed), max_tokens=60, sampling=SamplingParams(seed=seed))
        for seed in range(6)
    ]

    async def scenario() -> None:
        info = await process.wait_ready()
        assert info.num_seats == 3 and info.seating.startswith("as configured")
        together = await asyncio.gather(*(collect(process, each) for each in requests))
        for request, told in zip(requests, together, strict=True):
            assert ids(told) == ids(await collect(process, request))
        widths = [each.stats.num_texts for each in together[2] if isinstance(each, Output)]
        assert max(widths) == 3

    loop.run(scenario())


def test_one_of_several_that_is_given_up_frees_its_seat_alone(
    process: EngineProcess, loop: asyncio.Runner
) -> None:
    """Red when a cancel ends a neighbour, or leaves the seat to the text that nobody wants."""

    async def scenario() -> None:
        alone = ids(await collect(process, replace(LONG, request_id="alone")))
        staying = asyncio.create_task(collect(process, LONG))
        seated = [process.generate(replace(LONG, request_id=name)) for name in ("stays", "leaves")]
        for stream in seated:
            await anext(stream)
        await seated[1].aclose()
        assert len(ids(await collect(process, SHORT))) == 12
        assert not staying.done()
        assert ids(await staying) == alone
        await seated[0].aclose()

    loop.run(scenario())


def test_a_death_is_told_to_all_that_run_and_to_who_comes_later(config: EngineConfig) -> None:
    """Red when a request waits for ever because another was told, or nobody says why."""

    async def scenario() -> None:
        async with running(replace(config, max_running=2)) as process:
            await process.wait_ready()
            written = process.generate(LONG)
            await anext(written)
            named = [replace(LONG, request_id=str(number)) for number in range(3)]
            work = [asyncio.create_task(collect(process, each)) for each in named]
            await asyncio.sleep(0)  # they have been sent, and the first one is not at its end
            os.kill(process._child.process.pid or 0, signal.SIGKILL)
            with pytest.raises(EngineDiedError, match="exit code -9"):
                async for _ in written:
                    pass
            told = await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 5)
            assert [type(each) for each in told] == [EngineDiedError] * 3
            assert all("exit code -9" in str(each) for each in told)
            assert "exit code -9" in await process.wait_died()
            with pytest.raises(EngineDiedError):
                await collect(process, SHORT)

    asyncio.run(scenario())
