"""Folders of machine code that this process may run: nobody else can write to them.

What is loaded from a cache runs as whoever loads it. So the folder must be the user's own, or
root's, without a door for others in it or above it. Of the files in it there are digests, written
last, which tell that they are whole: half a library, mapped into memory, kills its process.
"""

import hashlib
import inspect
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO

from engine.scratch import Scratch, locked

_TORCH_CACHES = {
    "PYTORCH_KERNEL_CACHE_PATH": "kernels",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
}
_VERDICT = ".refused"
_BLOCK = 2**20
_REMEDY = "name a folder of your own in cache_dir or XDG_CACHE_HOME"
_chosen: set[str] = set()
"""Folders that this process has put there by itself: the environment's user has not named them."""
_log = logging.getLogger(__name__)


def cache_root(named: str | None = None) -> Path:
    """Where compiled code is kept between runs: in a folder by its name, or as XDG has it."""
    if named:
        return Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME", "")
    # A relative name, which is also all that a user without a home has, means the working folder.
    home = home if os.path.isabs(home) else os.path.expanduser("~/.cache")
    return Path(home if os.path.isabs(home) else "/", "stagetree")


def make_private(folder: Path) -> None:
    """Make a folder for this user alone, unless it is there.

    Raises OSError if that cannot be, and what `check_private` does.
    """
    for each in (*reversed(folder.absolute().parents), folder):
        each.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Raise PermissionError, with the remedy, if another user can put something into a folder.

    Raises FileNotFoundError if there is no such folder.
    """
    ends = (folder.absolute(), Path(os.path.realpath(folder)))
    for each in (*ends, *ends[0].parents, *ends[1].parents):
        found = each.lstat()
        if not _is_ours(found):
            raise PermissionError(
                f"{each} belongs to another user, who could put code there: {_REMEDY}"
            )
        if _can_be_replaced(found) or (each in ends and _is_shared(found)):
            # Only its owner can take a right away, and not on every file system.
            closing = f"chmod go-w {each}, or " if found.st_uid == os.getuid() else ""
            raise PermissionError(f"other users could put code into {each}: {closing}{_REMEDY}")


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (os.getuid(), 0)


def _is_shared(found: os.stat_result) -> bool:
    """Whether others can write to it; the rights of a link itself mean nothing."""
    return not stat.S_ISLNK(found.st_mode) and bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _can_be_replaced(found: os.stat_result) -> bool:
    """Whether everybody can change what is in a folder: in a sticky one, only add to it."""
    return _is_shared(found) and found.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH


def open_own(path: Path, mode: str) -> IO[bytes]:
    """Open a file of a private folder as `open` does; raises PermissionError if it is a link."""
    if path.is_symlink():
        raise PermissionError(f"{path} is a link, which is not followed: remove it")
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))


def publish(drafts: Sequence[Path], path: Path) -> None:
    """Move finished files to where `path` is, by its name and their own suffixes.

    One of them becomes `path`, which is usable once all of them are there. One that is whole
    already stays as it is, since somebody may be about to load it.
    """
    with _publishing(path, path.parent) as is_needed:
        if is_needed:
            _move(drafts, path)


def publish_folder(draft: Path, path: Path) -> None:
    """Move a finished folder to where that of `path` is, which is usable once it is there.

    One that is whole already stays as it is; whatever else is there is removed.
    """
    folder = path.parent
    _write_digests(draft / path.name, {file.name: file for file in sorted(draft.iterdir())})
    with _publishing(path, folder.parent) as is_needed:
        if is_needed:
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(draft, folder)


@contextmanager
def _publishing(path: Path, folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; whether what is to be published there is not whole already."""
    with ExitStack() as stack:
        with suppress(OSError):  # without locks two at once spoil each other's files, which is seen
            stack.enter_context(locked(folder.resolve(), is_waiting=True))
        is_whole = False
        with suppress(OSError):
            is_whole = _is_whole(path)
        yield not is_whole


def _move(drafts: Sequence[Path], path: Path) -> None:
    digests = _digests_of(path)
    digests.unlink(missing_ok=True)
    scratch = drafts[0].parent / path.name
    written = _write_digests(scratch, {f"{path.stem}{each.suffix}": each for each in drafts})
    for draft in drafts:
        os.replace(draft, path.with_suffix(draft.suffix))
    os.replace(written, digests)


def _write_digests(path: Path, files: Mapping[str, Path]) -> Path:
    """Seal files, and write their digests by the names that they will have; returns that file."""
    lines = [f"{_seal(file)}  {name}\n" for name, file in files.items()]
    written = _digests_of(path)
    written.write_text("".join(lines))
    return written


def is_usable(path: Path) -> bool:
    """Whether such a file was published, is nobody else's, and is whole, with what belongs to it.

    One that is not whole is removed, with a warning, for it to be made anew.
    """
    with suppress(OSError):
        check_private(path.parent)
        if _is_whole(path):
            return True
        _log.warning("%s is not used, since it is not whole: it is to be made anew", path)
        _discard(path)
    return False


def _is_whole(path: Path) -> bool:
    """Raises OSError if it was never finished, or others can change it."""
    lines = _digests_of(path).read_text(errors="replace").splitlines()
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {name: _digest(path.parent / Path(name).name) for name in digests}
    return path.name in digests and found == digests


def _discard(path: Path) -> None:
    """Remove a file, unless it is just being made anew, or has been.

    Raises OSError if that cannot be, or somebody publishes there.
    """
    with locked(path.parent.resolve()):
        if not _is_whole(path):
            path.unlink()


def condemn(path: Path, judge: ModuleType, reason: str) -> None:
    """Remove what a judge has found wrong, in all its parts, and remember it.

    Made anew it would be the same.
    """
    remember(path, judge, reason)
    for each in path.parent.glob(f"{path.stem}.*"):
        if each.suffix != _VERDICT:
            with suppress(OSError):
                each.unlink()


def remember(path: Path, judge: ModuleType, reason: str) -> None:
    """Have `verdict` tell from now on what a judge has found wrong."""
    with suppress(OSError), open_own(_verdict_of(path, judge), "wb") as file:
        file.write(reason.encode())


def verdict(path: Path, judge: ModuleType) -> str | None:
    """Why this judge has condemned what is made as `path`, if it has."""
    with suppress(OSError), open_own(_verdict_of(path, judge), "rb") as file:
        return file.read().decode(errors="replace")
    return None


def _verdict_of(path: Path, judge: ModuleType) -> Path:
    """Named by the judge's code, since another may think otherwise."""
    code = hashlib.sha256(inspect.getsource(judge).encode()).hexdigest()[:8]
    return path.with_name(f"{path.name}.{code}{_VERDICT}")


def _digests_of(path: Path) -> Path:
    """What `sha256sum --check` reads of the files that were published together."""
    return path.with_name(path.name + ".sha256")


def _seal(draft: Path) -> str:
    """Have the disk hold a file that only its owner can change; returns its digest."""
    draft.chmod(0o644)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    return _digest(draft)


def _digest(path: Path) -> str:
    """Raises PermissionError if anybody else can change the file."""
    with open_own(path, "rb") as file:
        found = os.fstat(file.fileno())
        if not _is_ours(found) or _is_shared(found):
            raise PermissionError(f"{path} can be changed by other users")
        digest = hashlib.sha256()
        while block := file.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest()


def torch_caches(root: Path) -> dict[str, str]:
    """Environment variables by which torch keeps the code that it compiles in private folders.

    By default it is kept among the temporary files of all users, and what is found there is run.
    Folders that the user's environment names stay in use if they are private; the others are in
    `root`, whatever was chosen here before, or, where that cannot be, in a folder of this process.
    """
    return {variable: _torch_cache(variable, root) for variable in _TORCH_CACHES}


def _torch_cache(variable: str, root: Path) -> str:
    named = os.environ.get(variable, "")
    if named not in _chosen and _is_private(named):
        return named
    chosen = str(_torch_folder(root) / _TORCH_CACHES[variable])
    _chosen.add(chosen)
    return chosen


def _is_private(folder: str) -> bool:
    """Whether it is such a folder, made if it is missing, wherever the process works."""
    with suppress(OSError):
        if os.path.isabs(folder):
            make_private(Path(folder))
            return True
    return False


@cache
def _torch_folder(root: Path) -> Path:
    with suppress(OSError):
        make_private(root / "torch")
        return root / "torch"
    with suppress(OSError):
        return _own_folder().path
    return Path(os.devnull)  # where nothing can be written nothing is compiled


@cache
def _own_folder() -> Scratch:
    """Of this process, until it ends."""
    return Scratch()
