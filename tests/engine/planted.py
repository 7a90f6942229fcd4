"""A working folder in which somebody has planted modules and programs."""

import os
from pathlib import Path

import pytest

_MODULES = ("torch", "pickle", "ctypes", "msgspec", "zmq", "engine/__init__", "engine/compiling")


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work there from now on; whatever is run of it is told by the file that is returned.

    Search paths lead there as they often do by accident: by an empty or relative name in them.
    """
    (working := folder / "working").mkdir()
    ran = folder / "ran"
    for module in _MODULES:
        (path := working / f"{module}.py").parent.mkdir(exist_ok=True)
        path.write_text(f"open({str(ran)!r}, 'a').write({module!r} + ' ')\n")
    for name in ("g++", "c++", "cc", "gcc"):
        (working / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
        (working / name).chmod(0o755)
    monkeypatch.chdir(working)
    for variable in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH"):
        rest = os.environ.get(variable, "")
        monkeypatch.setenv(variable, os.pathsep.join(["", ".", *filter(None, [rest])]))
    return ran
