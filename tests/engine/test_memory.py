"""How much memory is left is what the host and its control group leave, whichever is less."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import memory
from engine.api import Engine
from engine.config import EngineConfig
from engine.drafting.build import recognised
from engine.drafting.needs import needs_of_stages
from engine.errors import ConfigError
from engine.geometry import strip_rows
from engine.kv_cache import kept_by
from engine.loading import Checkpoint
from engine.memory import Needs
from engine.request import GenerateRequest
from engine.strips import NOTHING, Seating, plan_seats
from tests.checkpoints import make_model

CPU = torch.device("cpu")
MEMINFO = "MemTotal:       16000000 kB\nMemFree:         100 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 8 GB left; its control group has no limit."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "memory.max").write_text("max\n")
    return tmp_path


def test_a_host_leaves_what_can_be_had_without_swapping(machine: Path) -> None:
    assert memory.free_bytes(CPU) == 8_192_000_000
    (machine / "meminfo").unlink()
    assert memory.free_bytes(CPU) is None


def test_a_container_leaves_its_limit_less_what_cannot_give_way(machine: Path) -> None:
    """Red when a container's server counts with the memory of its host, or files that were read
    twice with what is used."""
    (machine / "memory.max").write_text("2000000000\n")
    (machine / "memory.current").write_text("900000000\n")
    (machine / "memory.stat").write_text(
        "anon 500000000\ninactive_file 100000000\nactive_file 300000000\n"
    )
    assert memory.free_bytes(CPU) == 1_500_000_000


def test_what_does_not_fit_is_told_with_its_remedy(machine: Path) -> None:
    memory.require(8_000_000_000, CPU, "a cache", "choose less.")
    with pytest.raises(ConfigError, match=r"a cache takes 9.0 GB, and 8.2 GB are free on cpu: ch"):
        memory.require(9_000_000_000, CPU, "a cache", "choose less.")
    (machine / "meminfo").unlink()
    memory.require(9_000_000_000, CPU, "a cache", "choose less.")


def test_engines_of_one_machine_have_equal_parts_of_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when each of them counts with the whole, or one that starts again with a part of what
    the others have left."""
    monkeypatch.setattr(memory, "total_bytes", lambda: 16_000_000_000)
    memory.require(8_000_000_000, CPU, "a model", "choose less.", 2)
    with pytest.raises(ConfigError, match=r"6.0 GB in each of 3 engines, and there are 16.0 GB in"):
        memory.require(6_000_000_000, CPU, "a model", "choose less.", 3)


def test_a_window_that_does_not_fit_is_made_as_long_as_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red when a long window is refused though nobody asked for it, or it is cut in silence."""
    kept = kept_by(make_model().function.probe)
    row_bytes = sum(rows.nbytes for rows in kept.rows)

    def planned(rows: int, max_model_len: int | None = None, num_seats: int = 0) -> Seating:
        monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * rows * row_bytes)
        return plan_seats(kept, max_model_len, 4096, num_seats)

    ample = planned(100_000)
    assert ample[:2] == (4096, 4) and "no room" not in ample.reason
    assert planned(strip_rows(4096)) == (4096, 1, planned(strip_rows(4096)).reason)
    scarce = planned(strip_rows(1000))
    assert scarce[:2] == (1000, 1) and "no room for a window of 4096" in scarce.reason
    assert planned(2 * strip_rows(1000), num_seats=2)[:2] == (1000, 2)
    assert planned(strip_rows(1000), max_model_len=3000)[:2] == (3000, 1)
    assert planned(10)[:2] == (256, 1)


def test_the_seats_of_stages_are_planned_with_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a draft finds no room because its target has taken it."""
    kept = kept_by(make_model().function.probe)
    row_bytes = sum(rows.nbytes for rows in kept.rows)
    free = 2 * 4 * strip_rows(1000) * row_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)

    def planned(beside: Needs) -> int:
        return plan_seats(kept, 1000, 4096, beside=beside).num_seats

    assert planned(NOTHING) == 4
    assert planned(Needs(row_bytes=row_bytes)) == planned(Needs(num_bytes=free // 2)) == 2
    assert planned(Needs(num_bytes=free)) == 1


@pytest.mark.parametrize("stage", ["embedded/draft", "embedded/head"])
def test_what_a_stage_will_take_is_known_before_it_is_loaded(stage: str) -> None:
    """Red when a network's shape tells of other rows than it keeps, or a head's features are left
    out."""
    stages = [{"kind": "model", "model": stage}]
    given = {"model": "embedded/target", "stages": stages, "dtype": "float32", "compile": "never"}
    config = EngineConfig.from_mapping({**given, "max_model_len": 64, "max_running": 1})
    config = replace(config, stages=recognised(config.stages))
    needs = needs_of_stages(config, Checkpoint.read(config.model))
    engine = Engine.load(config)
    list(engine.generate(GenerateRequest("1", (1, 2, 3), 4, speculation="always")))
    target, drafts = engine.scorers["target"], [*engine.scorers.values()][1]
    features = target.strips.cache._features
    kept = 0 if features is None else features.shape[1] * features.itemsize
    rows = [rows.nbytes // rows.shape[-2] for rows in drafts.strips.cache.rows]
    assert needs.row_bytes == sum(rows) + kept
    assert (kept > 0) == (stage == "embedded/head")
