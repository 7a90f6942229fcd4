"""Compiled passes as files: made ahead of time by torch's AOTInductor, loaded in a moment.

A package is a library of machine code for a network's shapes, for any width and any length of the
text, which calls our kernels by their names; beside it are its own tensors (`.constants`), and what
it calls by torch's dispatch, if there is such (`.json`). The weights stay where they are: whoever
loads a package hands it those of its network. A library is loaded from where it lies, by the runner
for which torch's archive of such files would first be unpacked and the machine's compiler be asked
what it can do.
"""

import hashlib
import inspect
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from engine import attention, kernels, kv_cache, masks
from engine.code_cache import publish
from engine.geometry import MAX_WIDTH
from engine.kernels import dots
from engine.passes import merging
from engine.passes.function import Example, Form, PassFunction, PassInputs
from engine.passes.merging import merge_products
from engine.recurrent import binding, forest, functions, layer, recurrence, states
from engine.scratch import Scratch
from engine.threads import THREADS
from engine.weights import IntegerEmbedding, PackedLinear

_SHARED_OUT = 2**15
"""Figures of a few rows from which on it pays to share them out among threads."""
LIBRARY = ".so"
_CALLS, _CONSTANTS = ".json", ".constants"
_ROOMS = (attention, kv_cache, masks, dots)
"""Whose code is traced into every package."""
_INLINED = 8
_SAMPLED = 64


class Package:
    """A loaded package: call it as the function that it was made for, or run it over `rows`."""

    form: Form = "compiled"
    widest: int | None = MAX_WIDTH

    def __init__(self, path: Path, function: PassFunction, rows: Sequence[Tensor]) -> None:
        self.function = function
        self._rows = rows
        self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)
        own = torch.load(path.with_suffix(_CONSTANTS), weights_only=True)
        names = self._runner.get_constant_names_to_original_fqns()
        self._weights = {
            name: own[place] if place in own else attrgetter(place)(function).detach()
            for name, place in names.items()
        }
        # All of them, for use at once, and kept alive by this object.
        self._runner.update_constant_buffer(self._weights, False, True, True)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The function's outputs; the cache's rows are written in place."""
        return tuple(self._runner.run(list(inputs)))

    def padding(self, width: int) -> int | None:
        """None is needed, at any width that it was made for."""
        return 0 if width <= MAX_WIDTH else None

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, on as many threads as are of use."""
        grouping = self.function.grouping(inputs.rows)
        run = partial(self, *inputs, *grouping, *extra, *self._rows)
        return THREADS.run((id(self), inputs.width, len(inputs.scored)), run)


def compile_package(function: PassFunction, example: Example, path: Path) -> None:
    """Compile a function for all widths and write it to `path`, at once or not at all.

    Raises whatever torch's compiler raises, which for a network that it cannot trace may be
    anything.
    """
    inputs, extra, rows = example
    # Two numbers that happen to be the same a tracer may take for one.
    inputs = inputs._replace(scored=inputs.scored[1:])
    # To its tracer one row is a special case, and so is none; the code for more is right for them
    # (its proof tells).
    width = torch.export.Dim("width", min=2, max=MAX_WIDTH)
    scored = torch.export.Dim("scored", min=2, max=MAX_WIDTH)
    grouping = function.grouping(inputs.rows, function.sizes(inputs.width)[-1])
    sizes = [{axis: torch.export.Dim.DYNAMIC for axis in range(each.dim())} for each in grouping]
    rest = (*sizes, *({1: width} for _ in extra), *({} for _ in rows))
    shapes: tuple[object, ...] = ({1: width}, {0: width}, {0: width}, {0: scored}, rest)
    with torch.no_grad(), Scratch(path.parent) as folder:
        program = torch.export.export(
            function, (*inputs, *grouping, *extra, *rows), dynamic_shapes=shapes, strict=False
        )
        merge_products(program)
        archive = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / "package.pt2"),
            inductor_configs=_options(),
        )
        # What the network's code makes on its way is nobody's attribute.
        names = program.graph_signature.lifted_tensor_constants
        own = {name: program.constants[name] for name in names}
        torch.save(own, folder / f"package{_CONSTANTS}")
        publish([*_unpack(Path(archive)), folder / f"package{_CONSTANTS}"], path)


def _options() -> dict[str, Any]:
    """Those of torch's compiler."""
    return {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.custom_ops_to_c_shims": kernels.shims(),
        "cpp.min_chunk_size": max(512, _SHARED_OUT // THREADS.num_threads),
    }


def _unpack(archive: Path) -> Iterator[Path]:
    """The library in torch's archive, and what it calls by dispatch, if so, as files beside it."""
    with zipfile.ZipFile(archive) as members:
        (library,) = (name for name in members.namelist() if name.endswith(LIBRARY))
        calls = library.removesuffix(LIBRARY) + _CALLS
        for name in {library, calls} & {*members.namelist()}:
            draft = archive.with_suffix(Path(name).suffix)
            draft.write_bytes(members.read(name))
            yield draft


def fingerprint(function: PassFunction, rows: Sequence[Tensor]) -> str:
    """A name for all that a package depends on: shapes, code, versions, the machine."""
    state = _state(function)
    ours = PackedLinear | IntegerEmbedding
    layouts = {type(each) for each in function.modules() if isinstance(each, ours)}
    by_name = sorted(layouts, key=lambda layout: layout.__qualname__)
    kinds: list[type] = [PackedLinear, *by_name, type(function)]
    facts = [
        function.description,
        kernels.describe_machine(),
        version("transformers"),
        THREADS.num_threads,
        *((name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()),
        # A compiler writes the smallest weights into its code.
        *(tensor.tolist() for tensor in state.values() if tensor.numel() <= _INLINED),
        *((tuple(tensor.shape), tensor.dtype) for tensor in rows),
        *(inspect.getsource(room) for room in (*_ROOMS, *_rooms(function))),
        *(inspect.getsource(kind) for kind in kinds),
        *(inspect.getsource(each) for each in (compile_package, merging)),
        *_options().items(),
    ]
    return _digest(facts)


def _rooms(function: PassFunction) -> Sequence[ModuleType]:
    """The code that layers run which keep a state."""
    return (
        () if function.states is None else (binding, forest, functions, layer, recurrence, states)
    )


def fingerprint_of_weights(function: PassFunction) -> str:
    """A name for the weights that a package is given, by some of each tensor's."""
    parts = (tensor.reshape(-1) for tensor in _state(function).values())
    return _digest([part[:: max(1, len(part) // _SAMPLED)].tolist() for part in parts])


def _state(function: PassFunction) -> dict[str, Tensor]:
    return {**dict(function.named_parameters()), **dict(function.named_buffers())}


def _digest(facts: Sequence[object]) -> str:
    return hashlib.blake2b("\0".join(map(str, facts)).encode(), digest_size=16).hexdigest()
