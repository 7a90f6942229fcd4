"""Compiling while somebody else is served: a process of its own, at the lowest priority.

It is told what to compile through a pipe that stays open, and ends with whoever holds the other
end. What it makes are files, so nobody waits for it: `OnCpu` looks for them.
"""

import logging
import pickle
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

from engine import program
from engine.code_cache import make_private, open_own
from engine.config import EngineConfig
from engine.scratch import Scratch

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
            needs = "it takes g++ 12 or clang, which CXX may name"
            self._fail(f"compiling them failed ({needs}); see {self._log_file}")
        self._end()
        self._process = None
        return False

    def start(self, config: EngineConfig | None, missing: Sequence[str]) -> bool:
        """Compile what this engine runs, of which `missing` (names) is not in the folder; if any.

        Without a configuration no weights are loaded, and the kernels alone are compiled. What
        was tried before is not tried again, and nothing is started beside a process that runs.
        """
        if self.is_running or not set(missing) - self._tried:
            return self.is_running
        self._tried.update(missing)
        try:
            make_private(self.folder)
            self._launch(config)
        except OSError as error:
            self._fail(f"they cannot be compiled in {self.folder}, which cache_dir names: {error}")
        return self._process is not None

    def _fail(self, reason: str) -> None:
        self.failure = reason
        _log.warning("passes stay eager: %s", reason)

    def _launch(self, config: EngineConfig | None) -> None:
        scratch = Scratch(self.folder)
        environment = {
            **program.environment(self.folder.parent, scratch.path),
            # Threads that wait for one another must not spin on cores that others need.
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(scratch.path),
        }
        with open_own(self._log_file, "wb") as log:
            process = subprocess.Popen(
                program.command(_PROGRAM),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(pickle.dumps((config, self.folder)))
        self._process = process
        self._end = weakref.finalize(self, _end, process, scratch)

    def wait(self) -> None:
        """Return when everything is compiled or given up."""
        if self._process is not None:
            self._process.wait()

    @property
    def _log_file(self) -> Path:
        return self.folder / "compiler.log"


def _end(process: subprocess.Popen[bytes], scratch: Scratch) -> None:
    """Close the pipe, on which the process ends if it has not already; clean up after it."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    scratch.remove()
