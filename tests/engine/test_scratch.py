"""Folders for a while: private, and swept when their process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.scratch import Scratch, sweep


def abandoned(parent: Path) -> Path:
    """A scratch folder of a process that was killed in the middle."""
    program = "import sys; from pathlib import Path; from engine.scratch import Scratch\n"
    program += "held = Scratch(Path(sys.argv[1])); print(held.path, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        process.kill()
    assert folder.is_dir()
    return folder


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    left = abandoned(tmp_path)
    (left / "deep" / "er").mkdir(parents=True)
    with Scratch(tmp_path) as folder:
        assert not left.exists() and folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_is_in_use_is_not_swept(tmp_path: Path) -> None:
    """Red when servers that share a folder, be it between containers, lose what they hold."""
    with Scratch(tmp_path) as folder:
        sweep(tmp_path)
        Scratch(tmp_path).remove()
        assert folder.exists()


@pytest.mark.parametrize("name", ["stagetree.git", "stagetree-tests-1", "stagetree-scratch.mine"])
def test_a_folder_that_a_user_has_named_is_not_swept(tmp_path: Path, name: str) -> None:
    """Red when a start deletes whatever is called like a scratch folder and held by nobody."""
    (mine := tmp_path / name).mkdir(mode=0o700)
    (mine / "precious").write_text("work of a year")
    sweep(tmp_path)
    Scratch(tmp_path).remove()
    assert (mine / "precious").read_text() == "work of a year"


def test_a_scratch_folder_that_its_user_has_opened_to_others_is_not_swept(tmp_path: Path) -> None:
    """Red when what was left by a process, and has become somebody's since, is removed."""
    (kept := abandoned(tmp_path)).chmod(0o755)
    sweep(tmp_path)
    assert kept.exists()
    kept.chmod(0o2700)  # as in a folder whose group is handed down
    sweep(tmp_path)
    assert not kept.exists()


def test_what_is_not_ours_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when a folder of another user, or what a planted link leads to, is removed."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    victim = abandoned(elsewhere)
    (tmp_path / victim.name).symlink_to(victim)
    sweep(tmp_path)
    assert victim.exists()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    sweep(elsewhere)
    assert victim.exists()
