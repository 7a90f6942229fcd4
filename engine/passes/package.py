"""Compiled passes as files: made ahead of time by torch's AOTInductor, loaded in a moment.

A package holds machine code and the weights in the layout that this code likes best. Three serve a
network: one for a single row, where a pass is bound by reading the weights, one for few rows and
one for many.
"""

import hashlib
import inspect
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from engine import attention, kv_cache
from engine.passes.function import PassFunction, PassInputs

MAX_WIDTH = 64
"""Wider passes, of prompts, run eagerly: they are bound by arithmetic, not by overhead."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A package's range of widths, the width that it is tuned for, and who multiplies matrices.

    Few rows are fastest in kernels generated for the very shape, many in those of the library.
    """

    name: str
    smallest: int
    largest: int
    tuned: int
    is_generated: bool


KINDS = (
    Kind("one", 1, 1, 1, is_generated=True),
    Kind("few", 2, 15, 8, is_generated=True),
    Kind("many", 16, MAX_WIDTH, 32, is_generated=False),
)


class Example(NamedTuple):
    """Arguments of a function: the common inputs, the pass's own, and the rows of the cache."""

    inputs: PassInputs
    extra: Sequence[Tensor]
    rows: Sequence[Tensor]


class Package:
    """A loaded package: call it as the function that it was made from."""

    def __init__(self, path: Path) -> None:
        self._run = torch._inductor.aoti_load_package(str(path)).loader.boxed_run

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs, of all rows; the cache's rows are written in place."""
        return tuple(self._run(list(inputs)))


def compile_package(function: PassFunction, kind: Kind, example: Example, path: Path) -> None:
    """Compile a function for all widths of a kind and write it to `path`, at once or not at all.

    The example is of the kind's tuned width. Raises whatever torch's compiler raises, which for a
    network that it cannot trace may be anything.
    """
    inputs, extra, rows = example
    dim = torch.export.Dim
    is_one = kind.smallest == kind.largest
    width = dim.STATIC if is_one else dim("width", min=kind.smallest, max=kind.largest)
    # Reading every row would be a special case, which would need another package.
    mask = {2: width, 3: dim("length", min=2, max=rows[0].shape[2] - 1)}
    rest = (*({1: width} for _ in extra), *({} for _ in rows))
    shapes = ({1: width}, {1: width}, {0: width}, mask, mask, rest)
    options: Mapping[str, Any] = {
        "freezing": True,
        "max_autotune": kind.is_generated,
        "max_autotune_gemm_backends": "CPP",
        "cpp.enable_concat_linear": True,
    }
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        program = torch.export.export(
            function, (*inputs, *extra, *rows), dynamic_shapes=shapes, strict=False
        )
        draft = Path(folder, path.name)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(draft), inductor_configs=dict(options)
        )
        os.replace(draft, path)


def default_folder() -> Path:
    """Where packages are kept between runs, by the XDG convention."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root, "stagetree", "passes")


def digest(weights: Mapping[str, Tensor]) -> str:
    """A name for the content of some weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        flat = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(cast(Any, flat.numpy()))
    return digest.hexdigest()


def fingerprint(function: PassFunction, weights: str, rows: Sequence[Tensor]) -> str:
    """A name for all that a package depends on: weights, shapes, code, versions, the machine."""
    sources = (attention, kv_cache, compile_package, type(function))
    facts = [
        weights,
        function.description,
        torch.__version__,
        version("transformers"),
        torch.get_num_threads(),
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        _processor(),
        *((tuple(tensor.shape), tensor.dtype) for tensor in rows),
        *(inspect.getsource(source) for source in sources),
        *KINDS,
    ]
    return hashlib.blake2b("\0".join(map(str, facts)).encode(), digest_size=16).hexdigest()


def _processor() -> str:
    """The instructions that this machine's processor knows; machine code asks for no more."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = ("flags", "Features")  # as x86 and ARM call them
    return next((line for line in lines if line.startswith(names)), platform.processor())
