"""Compiled passes as files: made ahead of time by torch's AOTInductor, loaded in a moment.

A package holds machine code for a network's shapes, for any width and any length of the text. The
weights stay where they are: whoever loads a package hands it those of its network.
"""

import contextlib
import hashlib
import inspect
import os
import tempfile
import zipfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from engine import attention, kernels, kv_cache
from engine.passes import packed, proof
from engine.passes.crowd import CROWD
from engine.passes.function import MAX_WIDTH, Example, Form, PassFunction, PassInputs

_OPTIONS = {"aot_inductor.package_constants_in_so": False}
_CONSTANTS = ".constants"
_INLINED = 8


class Package:
    """A loaded package: call it as the function that it was made for, or run it over `rows`."""

    form: Form = "compiled"

    def __init__(self, path: Path, function: PassFunction, rows: Sequence[Tensor]) -> None:
        self._rows = rows
        package = torch._inductor.aoti_load_package(str(path))
        own = torch.load(path.with_suffix(_CONSTANTS), weights_only=True)
        self._weights = {
            name: own[name] if name in own else attrgetter(name)(function).detach()
            for name in package.get_constant_fqns()
        }
        package.load_constants(self._weights, check_full_update=True, user_managed=True)
        self._run = package.loader.boxed_run

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs, of all rows; the cache's rows are written in place."""
        return tuple(self._run(list(inputs)))

    def padding(self, width: int) -> int | None:
        """None is needed, at any width that it was made for."""
        return 0 if width <= MAX_WIDTH else None

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, of all rows, on as many threads as are of use."""
        run = partial(self, *inputs, *extra, *self._rows)
        return CROWD.run((id(self), inputs.width), run)


def compile_package(function: PassFunction, example: Example, path: Path) -> None:
    """Compile a function for all widths and write it to `path`, at once or not at all.

    Raises whatever torch's compiler raises, which for a network that it cannot trace may be
    anything.
    """
    inputs, extra, rows = example
    # To its tracer one row is a special case; the code for more is right for one (`PassRunner`
    # proves it).
    width = torch.export.Dim("width", min=2, max=MAX_WIDTH)
    rest = (*({1: width} for _ in extra), *({} for _ in rows))
    shapes: tuple[object, ...] = ({1: width}, {}, {0: width}, {0: width}, rest)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        program = torch.export.export(
            function, (*inputs, *extra, *rows), dynamic_shapes=shapes, strict=False
        )
        draft = Path(folder, path.name)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(draft), inductor_configs=_OPTIONS
        )
        # What the network's code makes on its way is nobody's attribute.
        names = program.graph_signature.lifted_tensor_constants
        own = {name: program.constants[name] for name in names}
        torch.save(own, draft.with_suffix(_CONSTANTS))
        os.replace(draft.with_suffix(_CONSTANTS), path.with_suffix(_CONSTANTS))
        os.replace(draft, path)


def verdict(path: Path) -> str | None:
    """Why what was compiled to `path` is not to be used, if that was found before."""
    with contextlib.suppress(OSError):
        if kernels.is_usable(place := _verdict(path)):
            return place.read_text()
    return None


def condemn(path: Path, reason: str) -> None:
    """Remove a package that is wrong, and remember why: made anew it would be the same."""
    with contextlib.suppress(OSError):
        _verdict(path).write_text(reason)
    remove(path)


def _verdict(path: Path) -> Path:
    """Where it is kept that this proof has refused a package; another may think otherwise."""
    judge = hashlib.blake2b(inspect.getsource(proof).encode(), digest_size=4).hexdigest()
    return path.with_suffix(f".{judge}.refused")


def remove(path: Path) -> None:
    """Remove a package, as far as that can be done."""
    for each in (path, path.with_suffix(_CONSTANTS)):
        with contextlib.suppress(OSError):
            each.unlink()


def is_whole(path: Path) -> bool:
    """Whether a package is there as it was written: what then fails is not the file's fault."""
    try:
        for each in (path, path.with_suffix(_CONSTANTS)):
            with zipfile.ZipFile(each) as archive:
                if archive.testzip() is not None:
                    return False
    except (OSError, zipfile.BadZipFile):
        return False
    return True


def default_folder() -> Path:
    """Where packages are kept between runs, by the XDG convention."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root, "stagetree", "passes")


def fingerprint(function: PassFunction, rows: Sequence[Tensor]) -> str:
    """A name for all that a package depends on: shapes, code, versions, the machine."""
    state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
    sources = (attention, kv_cache, packed, compile_package, type(function))
    facts = [
        function.description,
        kernels.describe_machine(),
        version("transformers"),
        CROWD.num_threads,
        *((name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()),
        # A compiler writes the smallest weights into its code.
        *(tensor.tolist() for tensor in state.values() if tensor.numel() <= _INLINED),
        *((tuple(tensor.shape), tensor.dtype) for tensor in rows),
        *(inspect.getsource(source) for source in sources),
    ]
    return hashlib.blake2b("\0".join(map(str, facts)).encode(), digest_size=16).hexdigest()
