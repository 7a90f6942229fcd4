"""Our own programs in processes of their own, which run nothing that stands in the working folder.

A program is a module of this package with a function `main`; `__main__.py` finds it.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from engine.code_cache import cache_root, torch_caches
from engine.scratch import Scratch

_SEARCH_PATHS = (
    *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH"),
)
"""Lists of folders in which an empty or relative name means the working folder."""


def command(module: str) -> list[str]:
    """The command line that runs `main` of a module, such as `engine.compiling`."""
    return [sys.executable, "-P", str(Path(__file__).absolute().with_name("__main__.py")), module]


def environment(root: Path, temporary: Path) -> dict[str, str]:
    """What such a process and its children inherit: this one's, without the working folder.

    The code that torch compiles is kept in `root`. Some of it torch puts among the temporary files
    whatever it is told: these go to a folder of our own.
    """
    found = {name: _absolute(os.environ.get(name, "")) for name in _SEARCH_PATHS}
    rest = {name: value for name, value in os.environ.items() if name not in found}
    # An empty list means the working folder, too.
    paths = {name: value for name, value in found.items() if value}
    own = {"TMPDIR": str(temporary), "PYTHONSAFEPATH": "1"}
    return {**rest, **paths, **torch_caches(root), **own}


def short_spins() -> dict[str, str]:
    """What lets OpenMP's threads spin only shortly before they sleep, unless the user has said how.

    It is read when torch is loaded, by whatever computes. By default they spin for milliseconds,
    many times in a pass, while the thread they wait for has no core: beside one busy process on two
    cores a pass of 1 ms then took 200. Without any spinning it takes 3 there, but 8 on an idle
    machine, whose cores sleep. With this count, 0.1 ms, streaming to a client on the same two cores
    is fastest.
    """
    is_told = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}.isdisjoint(os.environ)
    return {} if is_told else {"GOMP_SPINCOUNT": "1000"}


@contextmanager
def own_environment() -> Iterator[None]:
    """The same for this process: for a program that has torch compile here, before it is imported.

    Where there is no room for temporary files nothing is compiled, and nothing is changed.
    """
    before = {**os.environ}
    with ExitStack() as stack:
        with suppress(OSError):
            temporary = stack.enter_context(Scratch())
            _replace_environment(environment(cache_root(), temporary))
            stack.callback(_replace_environment, before)
        yield


def _replace_environment(names: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(names)
    tempfile.tempdir = None  # to be found anew


def end_with_parent(end: Callable[[], object]) -> None:
    """Call `end`, in a thread, once the other end of standard input is closed.

    Whoever started a process holds it; what is said through it must have been read.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        end()

    threading.Thread(target=watch, daemon=True).start()


def _absolute(folders: str) -> str:
    return os.pathsep.join(filter(os.path.isabs, folders.split(os.pathsep)))
