"""Passes recorded once as CUDA graphs and replayed: a GPU is no longer told operation by operation.

A graph reads and writes where it did when it was recorded, so each width has buffers of its own
that stay in place: inputs are copied in, and outputs are copied out before the next pass.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from engine.geometry import MAX_WIDTH
from engine.passes.device_arrays import DeviceArrays
from engine.passes.function import (
    Example,
    Form,
    MakeExample,
    PassFunction,
    PassInputs,
    Record,
    Run,
)
from engine.passes.fused import FusedFunction

_WARM_UPS = 3
_WIDTHS = (1, 16, 4, MAX_WIDTH, 2, 8, 32)
"""In the order in which they are recorded: that in which their costs are first asked for."""


class Graphs:
    """One function's passes of a few widths; one of another width is padded to the next.

    `example` makes arguments as for a runner; `record` turns what runs a pass into what
    replays it. What is recorded is the function itself or, if `is_fused`, what torch's compiler
    makes of it: fewer and larger kernels, which take it many seconds a width.
    """

    form: Form = "captured"
    widest: int | None = None

    def __init__(
        self,
        function: PassFunction,
        example: MakeExample,
        record: Record,
        is_fused: bool,
    ) -> None:
        self.function = FusedFunction(function) if is_fused else function
        self._function = function
        self._example = example
        self._record = record
        self._passes: dict[int, list[_Graph]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every width has been recorded."""
        return len(self._passes) == len(_WIDTHS)

    def capture(self, seconds: float) -> list[int]:
        """Record what widths are missing, one at least, for about so long; which these were.

        Raises whatever CUDA raises of a function that cannot be recorded: one whose course depends
        on figures, or that asks for memory of the host.
        """
        started = time.perf_counter()
        missing = [width for width in _WIDTHS if width not in self._passes]
        for count, width in enumerate(missing, start=1):
            self._passes[width] = [*self._recorded(width)]
            if time.perf_counter() - started > seconds:
                return missing[:count]
        return missing

    def _recorded(self, width: int) -> Iterator["_Graph"]:
        """Passes of all sizes of that width."""
        example = self._example(width, None)
        for sizes in self._function.sizes(width):
            group = partial(self._function.grouping, sizes=sizes)
            yield _Graph(self.function, example, group, self._record)

    def padding(self, width: int) -> int | None:
        """How many rows to put before so many for a recorded width; None if there is none."""
        fitting = [known - width for known in self._passes if known >= width]
        return min(fitting, default=None)

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, padding first; `extra` may lack the rows of the padding."""
        grouping = self._function.grouping(inputs.rows)
        fitting = (each for each in self._passes[inputs.width] if each.fits(grouping))
        return next(fitting).run(inputs, extra)


class _Graph:
    """A pass of one width over buffers that stay in place; all its rows get logits."""

    @torch.inference_mode()
    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        example: Example,
        group: Callable[[Tensor], Sequence[Tensor]],
        record: Record,
    ) -> None:
        shapes = {name: (each.dtype, (*each.shape,)) for name, each in _named(example.inputs)}
        self._inputs = DeviceArrays(example.rows[0].device, **shapes)
        self._inputs.send(dict(_named(example.inputs)))
        self._group, device = group, example.rows[0].device
        self._grouping = [each.to(device, copy=True) for each in group(example.inputs.rows)]
        self._extra = [each.clone() for each in example.extra]
        self._outputs: tuple[Tensor, ...] = ()
        there = PassInputs(**self._inputs.there)

        def run() -> None:
            self._outputs = function(*there, *self._grouping, *self._extra, *example.rows)

        self._replay = record(run)

    def fits(self, grouping: Sequence[Tensor]) -> bool:
        """Whether there is room for a pass with that grouping."""
        pairs = zip(grouping, self._grouping, strict=True)
        sizes = [zip(given.shape, there.shape, strict=True) for given, there in pairs]
        return all(given <= there for each in sizes for given, there in each)

    def run(self, inputs: PassInputs, extra: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self._inputs.send(dict(_named(inputs)))
        for buffer, given in zip(self._grouping, self._group(inputs.rows), strict=True):
            buffer.copy_(given)
        for buffer, given in zip(self._extra, extra, strict=True):
            buffer[:, buffer.shape[1] - given.shape[1] :].copy_(given)
        self._replay()
        logits, *others = self._outputs
        return logits[: len(inputs.scored)].clone(), *(each.clone() for each in others)


def _named(inputs: PassInputs) -> Iterable[tuple[str, Tensor]]:
    return zip(PassInputs._fields, inputs, strict=True)


class CudaRecorder:
    """Records CUDA graphs that share their scratch memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """What replays `run`, which is run a few times first, as libraries set themselves up."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph.replay
