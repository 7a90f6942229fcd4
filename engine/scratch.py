"""Folders for a while, which the next start sweeps away if a killed process has left them.

A folder is held by a lock on a file in it, which ends with its process, in whatever container: so
one whose lock can be had is nobody's any more.
"""

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

_PREFIX, _LOCK_NAME = "stagetree-", "lock"


class Scratch:
    """A folder that only this user can enter, until `remove`, or the end of the process.

    Raises OSError if `parent` cannot be written to; what is nobody's there is swept first.
    """

    def __init__(self, parent: Path) -> None:
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(self.path / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        with suppress(OSError):  # where there are no locks nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
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
    """Raises OSError if it is held, or has no lock: it is not one of ours, or not yet."""
    lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
