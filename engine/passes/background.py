"""Compiling while somebody else is served: a process of its own, at the lowest priority.

It is told what to compile through a pipe that stays open, and ends with whoever holds the other
end. What it makes are files, so nobody waits for it: `PassRunner.adopt` looks for them.
"""

import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from engine.config import EngineConfig

_PROGRAM = "engine.compiling"
_log = logging.getLogger(__name__)


class BackgroundCompiler:
    """At most one such process at a time, which ends with this object; its log is in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._tried: set[str] = set()
        self.failure: str | None = None
        """Why the last attempt made nothing, if so."""

    @property
    def is_running(self) -> bool:
        """Whether there is more to come; a failure is logged when it is first seen."""
        if self._process is None:
            return False
        if (code := self._process.poll()) is None:
            return True
        if code:
            self._fail(f"compiling them failed; see {self._log_file}")
        self._end()
        self._process = None
        return False

    def start(self, config: EngineConfig, missing: Sequence[str]) -> bool:
        """Compile what this engine runs, of which `missing` (names) is not in the folder; if any.

        What was tried before is not tried again, and nothing is started beside a process that runs.
        """
        if self.is_running or not set(missing) - self._tried:
            return self.is_running
        self._tried.update(missing)
        scratch = tempfile.mkdtemp(prefix="stagetree-compiler-")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._log_file.open("ab") as log:
                log.truncate(0)
                # Threads that wait for one another must not spin on cores that others need.
                environment = {
                    **os.environ,
                    "OMP_WAIT_POLICY": "PASSIVE",
                    "GOMP_SPINCOUNT": "0",
                    "TORCHINDUCTOR_CACHE_DIR": scratch,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                }
                process = subprocess.Popen(
                    [sys.executable, "-m", _PROGRAM],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            assert process.stdin is not None
            process.stdin.write(pickle.dumps((config, self.folder)))
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            self._fail(f"no compiler could be started: {error}")
        else:
            self._process = process
            self._end = weakref.finalize(self, _end, process, scratch)
        return self._process is not None

    def _fail(self, reason: str) -> None:
        self.failure = reason
        _log.warning("passes stay eager: %s", reason)

    def wait(self) -> None:
        """Return when everything is compiled or given up."""
        if self._process is not None:
            self._process.wait()

    @property
    def _log_file(self) -> Path:
        return self.folder / "compiler.log"


def _end(process: subprocess.Popen[bytes], scratch: str) -> None:
    """Close the pipe, on which the process ends if it has not already; clean up after it."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
