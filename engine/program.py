"""Our own programs in processes of their own, which run nothing that stands in the working folder.

A program is a module of this package with a function `main`. Its interpreter gets the safe path,
and takes this very package, wherever it is, from its own place: that folder may be a working
folder, and is not put on the path.
"""

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_SEARCH_PATHS = (
    *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH"),
)
"""Lists of folders in which an empty or relative name means the working folder."""


def command(module: str) -> list[str]:
    """The command line that runs `main` of a module, such as `engine.compiling`."""
    return [sys.executable, "-P", str(Path(__file__).absolute()), module]


def environment() -> dict[str, str]:
    """What such a process and its children inherit: this one's, without the working folder."""
    found = {name: _absolute(os.environ.get(name, "")) for name in _SEARCH_PATHS}
    rest = {name: value for name, value in os.environ.items() if name not in found}
    # An empty list means the working folder, too.
    paths = {name: value for name, value in found.items() if value}
    return {**rest, **paths, "PYTHONSAFEPATH": "1"}


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


def _main() -> None:
    """Run the program that the command line names."""
    package = Path(__file__).parent
    spec = spec_from_file_location(
        package.name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[package.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package.name])
    import_module(sys.argv[1]).main()


if __name__ == "__main__":
    _main()
