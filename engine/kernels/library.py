"""The kernels as a library of torch operators: built by a C++ compiler, loaded, proven."""

import ctypes
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
from torch._ops import OpOverload

from engine.code_cache import condemn, is_usable, make_private, publish, verdict
from engine.kernels import attention, choosing, dots, linear
from engine.scratch import Scratch

_HERE = Path(__file__).parent
_ARCHITECTURES = {"avx2": "x86-64-v3", "default": "x86-64"}
"""What a compiler calls the sets of instructions that torch can be told not to go beyond."""
_KERNELS = (linear, dots, attention, choosing)
_CALLED_BY_NAME = (
    "attention",
    *(f"linear_{name}" for name in ("float32", "bfloat16", "int8", "int4")),
    *(f"products_{name}" for name in ("bfloat16", "int8", "int4")),
)
_IN_C = {
    "Tensor": "AtenTensorHandle",
    "Optional[Tensor]": "AtenTensorHandle*",
    "List[Tensor]": "const AtenTensorHandle*, int64_t",
    "List[int]": "const int64_t*, int64_t",
    "int": "int64_t",
    "float": "double",
}
_is_loaded = False
_was_tried = False
_refusal: str | None = None
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
        draft, whole = scratch / path.name, scratch / "kernels.cpp"
        # One source, since torch's headers take longer than all that is ours.
        whole.write_text("".join(f'#include "{each}"\n' for each in sorted(_HERE.glob("*.cpp"))))
        command = [*_command(whole), "-o", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} cannot compile the kernels:\n{done.stderr}")
        publish([draft], path)


def _command(source: Path) -> list[str]:
    """What compiles and links the kernels."""
    torch_folder = Path(torch.__file__).parent
    return [
        *(*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", "-O3"),
        f"-march={_architecture()}",
        # No -ffast-math: it would change how the whole process computes with tiny numbers.
        *("-shared", "-fPIC", *(["-fopenmp"] if sys.platform != "darwin" else [])),
        *(f"-I{torch_folder / 'include'}", str(source)),
        *(f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"),
    ]


def _architecture() -> str:
    """This machine's own, unless torch has been told by ATEN_CPU_CAPABILITY to use less of it."""
    capability = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return _ARCHITECTURES.get(capability, "native") if is_x86 else "native"


def load(folder: Path) -> bool:
    """Load the kernels from `folder` if they are there and right; whether this process has them.

    Wrong ones are removed, and that is remembered; what cannot be loaded here and now stays.
    """
    global _is_loaded, _was_tried
    # Operators can be registered only once in a process, be they right or wrong.
    if _was_tried or refusal(folder) or not is_usable(path := _path(folder)):
        return _is_loaded
    _was_tried = True
    try:
        _open(path)
        for kernel in _KERNELS:
            kernel.register()
        _prove(path)
        _is_loaded = True
    except Exception as error:  # whatever a foreign file, or a machine short of room, may cause
        # torch says that it could not, and the cause why.
        _refuse(f"the kernels in {path} are not used: {error.__cause__ or error}")
    return _is_loaded


def _open(path: Path) -> None:
    """Let torch have its operators, and compiled passes its names."""
    torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _prove(path: Path) -> None:
    """Raise what a kernel's check does, whose verdict on it is remembered."""
    for kernel in _KERNELS:
        try:
            kernel.check()
        except ValueError as error:
            condemn(path, kernel, f"kernels that were compiled are not used: {error}")
            raise


def _refuse(reason: str) -> None:
    global _refusal
    _refusal = reason
    _log.warning("%s", reason)


def refusal(folder: Path) -> str | None:
    """Why this process, or any, does without the kernels that are or were in `folder`, if so."""
    verdicts = (verdict(_path(folder), kernel) for kernel in _KERNELS)
    return _refusal or next(filter(None, verdicts), None)


def shims() -> dict[OpOverload, list[str]]:
    """What a compiled pass calls in the place of our operators, as torch's compiler wants it told.

    Nothing if this process lacks the kernels. `shims.h` says why.
    """
    names = _CALLED_BY_NAME if _is_loaded else ()
    operators = {name: getattr(torch.ops.stagetree, name).default for name in names}
    return {
        operator: [f"AOTITorchError aoti_torch_cpu_{name}({_parameters(operator)})"]
        for name, operator in operators.items()
    }


def _parameters(operator: OpOverload) -> str:
    """Their types in C, by the rules of torch's compiler."""
    schema = operator._schema
    given = [_IN_C[str(each.type)] for each in schema.arguments]
    (output,) = schema.returns
    return ", ".join([*given, "..." if str(output.type) == "List[Tensor]" else "AtenTensorHandle*"])


@cache
def describe_machine() -> str:
    """What machine code depends on: sources, torch, and the instructions that are there."""
    sources = [path.read_text() for path in sorted(_HERE.glob("*.[ch]*"))]
    machine = (platform.machine(), _architecture(), _processor())
    return "\0".join([torch.__version__, *machine, inspect.getsource(_command), *sources])


def _path(folder: Path) -> Path:
    name = hashlib.blake2b(describe_machine().encode(), digest_size=16).hexdigest()
    return folder / f"kernels-{name}.so"


def _processor() -> str:
    """The instructions that this machine's processor knows; machine code asks for no more."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = ("flags", "Features")  # as x86 and ARM call them
    return next((line for line in lines if line.startswith(names)), "")
