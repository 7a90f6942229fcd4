"""Folders for a while, which the next start sweeps away if a killed process has left them.

A folder is held by a lock on it, which ends with its process, in whatever container: one that was
marked under its lock, and whose lock can be had, is nobody's any more. Whatever else is called like
it stays. Nor does a system that sweeps old files touch one that is locked.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "stagetree-scratch."
_MARK = ".swept-when-unlocked"


class Scratch:
    """A folder that only this user can enter, until `remove`, or the end of the process.

    It is made among the temporary files, or in `parent`, where what is nobody's is swept first.
    Raises OSError if that cannot be written to.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(self.path, os.O_RDONLY)
        with suppress(OSError):  # where there are no locks nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
            (self.path / _MARK).touch()
        self.remove = weakref.finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()


def sweep(parent: Path) -> None:
    """Remove the scratch folders of this user there whose processes have gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _may_be_ours(folder.lstat()):
                _remove_if_left(folder)


def _may_be_ours(found: os.stat_result) -> bool:
    is_closed = stat.S_ISDIR(found.st_mode) and found.st_mode & 0o777 == 0o700
    return is_closed and found.st_uid == os.getuid()


def _remove_if_left(folder: Path) -> None:
    """Raises OSError if it is held."""
    with locked(folder):
        if (folder / _MARK).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path, is_waiting: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, which is no link.

    Raises OSError if another has it, unless that is waited for, or where there are no locks.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        yield
    finally:
        os.close(lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
