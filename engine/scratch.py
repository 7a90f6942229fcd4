"""Folders for a while, which the next start sweeps away if a killed process has left them.

A folder is held by a lock on it, which ends with its process, in whatever container: one whose lock
can be had is nobody's any more. Nor does a system that sweeps old files touch one that is locked.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

_PREFIX = "stagetree."


class Scratch:
    """A folder that only this user can enter, until `remove`, or the end of the process.

    Raises OSError if `parent` cannot be written to; what is nobody's there is swept first.
    """

    def __init__(self, parent: Path) -> None:
        sweep(parent)
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
        lock = os.open(made, os.O_RDONLY)
        with suppress(OSError):  # where there are no locks nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now is it found by those who sweep.
        self.path = made.rename(made.with_name(made.name.removeprefix(".")))
        self.remove = weakref.finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.remove()


def sweep(parent: Path) -> None:
    """Remove the scratch folders of this user there whose processes have gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    """Raises OSError if it is held."""
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
