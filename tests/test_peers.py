"""The comparison with other engines: fair in time and length, and it says what it leaves out."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.peers.__main__ import parser, skip_line
from benchmarks.peers.contest import Entry, comparable_seconds, contest, num_agreeing, results
from benchmarks.peers.permutation import permuted
from benchmarks.peers.rows import OURS, PEERS, Emit, Peer, Row, Setup, Task
from benchmarks.peers.worker import Label, Reply, environment, timed
from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig
from engine.names import resolve

ROOT = Path(__file__).parent.parent
ARRAY = NDArray[np.float32]


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.peers", *options]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=200, cwd=ROOT
    )


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "def add(a, b):\n    return"}) + "\n")
    return path


@pytest.mark.slow
def test_without_a_peer_ours_is_measured_and_the_peer_has_a_line(
    prompts: Path, tmp_path: Path
) -> None:
    """Red when a missing peer stops the run, or does not say how to get it."""
    config = tmp_path / "plain.yaml"
    config.write_text("model: embedded/target\nstages: []\ncompile: never\n")
    few = ("--num-prompts", "1", "--tokens", "6", "--repetitions", "2", "--threads", "1")
    what = ("--peer", "llama.cpp", "--bits", "32")
    done = run("--prompts", prompts, "--config", config, *what, *few)
    assert done.returncode == 0, done.stderr
    if find_spec("llama_cpp") is None:
        skipped = "llama.cpp is skipped: no module llama_cpp"
        assert any(skipped in line and "pip install" in line for line in done.stderr.splitlines())
    assert "5 of 5" in done.stdout or "6 of 6" in done.stdout
    asked = f"--peer llama.cpp --config={config} --bits 32 --num-prompts=1"
    assert asked in done.stdout
    assert str(prompts) not in done.stdout


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_skipped_peer_names_what_is_missing_and_the_command(peer: Peer) -> None:
    line = skip_line(Peer(peer.name, peer.room, peer.packages, ("no_such",), peer.needs))
    assert line is not None and line.startswith(f"{peer.name} is skipped: no module no_such")
    assert line.endswith(peer.needs)
    assert (peer.needs != "") == (peer.modules != ())


def test_wrong_arguments_are_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for words, reason in {
        ("--tokens", "1"): "must be 2 or more, but it is 1",
        ("--peer", "vapour"): "invalid choice: 'vapour'",
        ("--bits", "5"): "invalid choice: 5",
    }.items():
        with pytest.raises(SystemExit):
            parser().parse_args(["--prompts", str(empty), *words])
        assert reason in capsys.readouterr().err


def test_the_clock_of_a_row_starts_with_its_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when the prompt's reading, or the first tokens, get into the rated time."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def generate(task: Task, emit: Emit) -> None:
        nonlocal now
        for seconds, tokens in ((100.0, [1, 2]), (1.0, [3]), (2.0, [4, 5])):
            now += seconds
            emit(tokens)

    reply = timed(Row("row", "F32", generate), Task((7,), 5))
    assert reply == Reply((1, 2, 3, 4, 5), 2, 100.0, 3.0)
    with pytest.raises(RuntimeError, match="wrote 5 tokens where 6"):
        timed(Row("row", "F32", generate), Task((7,), 6))


def test_who_began_with_several_tokens_is_rated_for_as_many_as_the_others() -> None:
    alone = [Reply((1, 2, 3, 4, 5), 1, 9.0, 4.0), Reply((1, 2, 3), 1, 9.0, 2.0)]
    several = [Reply((1, 2, 3, 4, 5), 3, 9.0, 2.0), Reply((1, 2, 3), 2, 9.0, 1.0)]
    np.testing.assert_allclose(comparable_seconds([alone]), [[4.0, 2.0]])
    np.testing.assert_allclose(comparable_seconds([several]), [[4.0, 2.0]])


def test_texts_agree_up_to_their_first_difference() -> None:
    assert num_agreeing((1, 2, 3), (1, 2, 3)) == 3
    assert num_agreeing((1, 9, 3), (1, 2, 3)) == 1
    assert num_agreeing((9, 2, 3), (1, 2, 3)) == 0


def test_others_threads_spin_by_their_default_and_not_as_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when the engine's setting slows the peers, or theirs stays behind."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    seen = []
    for peer in (OURS, PEERS[0], OURS):
        with environment(peer):
            seen.append(os.environ["GOMP_SPINCOUNT"])
    assert seen == ["5000", "300000", "5000"]


class FakeWorker:
    """Replies as slowly as told; the row `broken` fails in the third round."""

    peer = OURS

    def __init__(self) -> None:
        self.runs: list[str] = []

    def run(self, row: str, tasks: list[Task]) -> list[Reply]:
        self.runs.append(row)
        if row == "broken" and self.runs.count(row) == 3:
            raise RuntimeError("out of order")
        seconds, last = (4.0, 3) if row == "plain" else (2.0, 8)
        return [Reply((1, 2, last), 1, 2.0, seconds) for _ in tasks]


def test_rounds_are_interleaved_and_a_row_that_fails_is_left_out_with_its_reason() -> None:
    worker, told = FakeWorker(), list[str]()
    names = ("plain", "broken", "fast")
    entries = [Entry(worker, Label(name, "F32", "")) for name in names]  # type: ignore[arg-type]
    left = contest(entries, [Task((7,), 3)] * 2, 3, told.append)
    assert worker.runs[:6] == ["plain", "broken", "fast", "broken", "fast", "plain"]
    assert told == ["stagetree broken is left out: out of order"]
    plain, fast = results(left)
    assert (plain.row, fast.row) == ("plain", "fast")
    assert [len(entry.rounds) for entry in left] == [3, 3]
    assert (plain.tokens_per_second, fast.tokens_per_second) == (0.5, 1.0)
    assert (fast.ratio_to_plain, fast.ratio_low, fast.ratio_high) == (2.0, 2.0, 2.0)
    assert (fast.whole, fast.num_agreeing, fast.num_tokens) == (0.75, 4, 6)
    assert (plain.num_equal_replies, fast.num_equal_replies, fast.num_replies) == (2, 0, 2)


def test_the_draft_is_the_first_model_stage_that_is_no_head(tmp_path: Path) -> None:
    head, draft = HeadStageConfig("embedded/head"), ModelStageConfig("embedded/draft")
    config = EngineConfig("embedded/target", stages=(head,), alternatives=(draft,))
    assert Setup(config, 1, 8, tmp_path).draft == Path(resolve("embedded/draft"))
    assert Setup(EngineConfig("t", stages=(head,)), 1, 8, tmp_path).draft is None


def test_permuted_rows_rotated_by_neighbours_attend_as_before() -> None:
    """Red when a row stands elsewhere: scores of rotated queries and keys would change."""
    random = np.random.default_rng(0)
    num_heads, head_size, width = 3, 8, 16
    query, key = random.normal(size=(2, num_heads * head_size, width)).astype(np.float32)
    x, y = random.normal(size=(2, width)).astype(np.float32)

    def rotated(rows: ARRAY, position: int, first: ARRAY, second: ARRAY) -> ARRAY:
        angles = position * 100.0 ** -(np.arange(head_size // 2) / (head_size // 2))
        heads = rows.reshape(num_heads, head_size).copy()
        a, b = heads[:, first], heads[:, second]
        heads[:, first] = a * np.cos(angles) - b * np.sin(angles)
        heads[:, second] = b * np.cos(angles) + a * np.sin(angles)
        return heads

    places = np.arange(head_size)
    halves, neighbours = (places[:4], places[4:]), (places[::2], places[1::2])
    before = (rotated(query @ x, 5, *halves) * rotated(key @ y, 2, *halves)).sum(1)
    q, k = permuted(query, num_heads) @ x, permuted(key, num_heads) @ y
    after = (rotated(q, 5, *neighbours) * rotated(k, 2, *neighbours)).sum(1)
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_a_gguf_file_has_every_weight_once_and_is_kept(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from benchmarks.peers.gguf_file import gguf_file

    draft = Path(resolve("embedded/draft"))
    path = gguf_file(draft, "Q8_0", tmp_path)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    layer = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
    layer += ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    names = {"token_embd.weight", "output_norm.weight", *(f"blk.0.{n}.weight" for n in layer)}
    assert tensors.keys() == names
    # Rows of 64 are whole blocks of 32, those of 80 are not.
    assert tensors["blk.0.attn_output.weight"].tensor_type.name == "Q8_0"
    assert tensors["blk.0.attn_q.weight"].tensor_type.name == "F32"
    written = path.stat().st_mtime_ns
    assert gguf_file(draft, "Q8_0", tmp_path).stat().st_mtime_ns == written
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_llama_cpp_writes_what_transformers_writes_however_it_drafts(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    from benchmarks.peers import hugging_face, llama

    config = EngineConfig("embedded/target", stages=(ModelStageConfig("embedded/draft"),))
    setup = Setup(config, 1, 64, tmp_path)
    task = Task((258, 297, 367, 690, 8, 1122, 12, 931, 310, 199), 24)
    torch.set_num_threads(1)
    with torch.inference_mode():
        eager, *_ = hugging_face.rows(setup)
    text = timed(eager, task).tokens
    texts = {row.name: timed(row, task).tokens for row in llama.rows(setup) if "F32" in row.name}
    assert texts == dict.fromkeys(("plain F32", "prompt lookup F32", "draft model F32"), text)
