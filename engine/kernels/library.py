"""The kernels as a library of torch operators: built by a C++ compiler, loaded, proven."""

import contextlib
import hashlib
import inspect
import logging
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from engine.code_cache import is_usable, make_private, publish
from engine.kernels import attention, linear
from engine.scratch import Scratch

_HERE = Path(__file__).parent
_is_loaded = False
_was_tried = False
_log = logging.getLogger(__name__)


def is_loaded() -> bool:
    """Whether this process has the kernels."""
    return _is_loaded


def build(folder: Path) -> None:
    """Have `$CXX`, or g++, compile the kernels into `folder`, unless they are there.

    It takes some ten seconds. Raises OSError or RuntimeError if there is no compiler or it fails.
    """
    if is_usable(path := _path(folder)):
        return
    make_private(folder)
    with Scratch(folder) as scratch:
        draft = scratch / path.name
        command = [*_command(), "-o", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} cannot compile the kernels:\n{done.stderr}")
        publish([draft], path)


def _command() -> list[str]:
    """What compiles and links the kernels."""
    torch_folder = Path(torch.__file__).parent
    return [
        *(*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-O3", "-march=native"),
        # No -ffast-math: it would change how the whole process computes with tiny numbers.
        *("-shared", "-fPIC", *(["-fopenmp"] if sys.platform != "darwin" else [])),
        *(f"-I{torch_folder / 'include'}", *map(str, sorted(_HERE.glob("*.cpp")))),
        *(f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"),
    ]


def load(folder: Path) -> bool:
    """Load the kernels from `folder` if they are there and right; whether this process has them."""
    global _is_loaded, _was_tried
    # Operators can be registered only once in a process, be they right or wrong.
    if _was_tried or not is_usable(path := _path(folder)):
        return _is_loaded
    _was_tried = True
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        for kernel in (linear, attention):
            kernel.register()
            kernel.check()
        _is_loaded = True
    except OSError as error:  # such as a disk from which nothing may be run
        _log.warning("the kernels in %s cannot be loaded: %s", path, error)
    except Exception as error:  # whatever kernels that are wrong may cause
        _log.warning("the kernels in %s are not used: %s", path, error)
        with contextlib.suppress(OSError):
            path.unlink()  # the next start makes them anew
    return _is_loaded


@cache
def describe_machine() -> str:
    """What machine code depends on: sources, torch, and the instructions that are there."""
    sources = [path.read_text() for path in sorted(_HERE.glob("*.[ch]*"))]
    facts = (torch.__version__, platform.machine(), _processor(), inspect.getsource(_command))
    return "\0".join([*facts, *sources])


def _path(folder: Path) -> Path:
    name = hashlib.blake2b(describe_machine().encode(), digest_size=16).hexdigest()
    return folder / f"kernels-{name}.so"


def _processor() -> str:
    """The instructions that this machine's processor knows; machine code asks for no more."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = ("flags", "Features")  # as x86 and ARM call them
    return next((line for line in lines if line.startswith(names)), "")
