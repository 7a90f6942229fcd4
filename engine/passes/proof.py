"""Whether fast passes compute what their function does, up to rounding.

The judge is the function itself in a higher precision, over the same fixed contents of the cache.
What the function in its own precision is off by, at its worst row, is what rounding does there, or
more, what so many layers of such a width make of it: fast passes may be off by a few times as much.
A wrong mask, position or row of the cache is off by far more.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from engine.attention import without_kernel
from engine.passes.function import MAX_WIDTH, Example, FastPasses, PassFunction, PassInputs
from engine.passes.packed import unpacked

MakeExample = Callable[[int, int | None], Example]

_LENGTHS = (MAX_WIDTH + 5, 2000)
"""Rows of the cache that passes read: few, so that each tells, and many, as far as there are."""
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)
_PERIOD = 61
_FACTOR = 4.0
_LARGEST = 0.25
"""Of an error that is still called rounding: more could not be told from a mistake."""


class WrongPassError(ValueError):
    """Fast passes that compute something else than their function."""


@torch.inference_mode()
def prove(
    fast: FastPasses, function: PassFunction, example: MakeExample, widths: Iterable[int]
) -> None:
    """Raise WrongPassError unless passes of these widths do to outputs and cache what they should.

    `example(width, length)` makes arguments of a pass whose own rows end the first `length` ones
    of the cache. These hold afterwards what they held before.
    """
    widths = tuple(widths)
    capacity = example(1, None).rows[0].shape[2]
    for length in sorted({min(length, capacity) for length in _LENGTHS}):
        with _fixed_rows(function, example, length):
            trial = _Trial(function, example(MAX_WIDTH, length), length)
            for width in widths:
                trial.judge(fast, width)


class _Trial:
    """One pass of `MAX_WIDTH` rows and what is right for it; narrower ones are its first rows."""

    def __init__(self, function: PassFunction, example: Example, length: int) -> None:
        self._inputs, self._extra, self._rows = example
        self._length = length
        there = PassInputs(*(tensor.to(self._rows[0].device) for tensor in self._inputs))
        self._slots = there.tokens[2]
        given = (*there, *self._extra)
        narrow = self._rows[0].dtype
        wide = torch.float64 if narrow == torch.float32 else torch.float32
        with _stock(function), _Widened(narrow, wide):
            rows = [row[:, :, :length].to(wide) for row in self._rows]
            self._right = self._with_written(function(*given, *rows), rows)
        outputs = function(*given, *self._rows, length=length)
        errors = self._errors(self._with_written(outputs, self._rows))
        floor = rounding(function, self._rows)
        self._bounds = [min(_FACTOR * max(float(each.max()), floor), _LARGEST) for each in errors]

    def judge(self, fast: FastPasses, width: int) -> None:
        """Raise WrongPassError unless the first rows come out right."""
        tokens, prefix, visible, windowed = self._inputs
        tokens = tokens[:, :width].contiguous()
        inputs = PassInputs(tokens, prefix, visible[:width], windowed[:width])
        for row in self._rows:
            row[:, :, self._slots] = 0.0
        outputs = fast.run(inputs, [each[:, :width] for each in self._extra])
        errors = self._errors(self._with_written(outputs, self._rows))
        for error, bound in zip(errors, self._bounds, strict=True):
            if not (worst := float(error.max())) <= bound:  # nor is what is not a number
                raise WrongPassError(
                    f"a pass of {width} rows that reads {self._length} is off by {worst:.2g}, of "
                    f"which rounding explains {bound:.2g}"
                )

    def _with_written(self, outputs: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor]:
        """A pass's outputs and what it has written to the cache, by row."""
        slots = self._slots[: len(outputs[0])]
        return [*outputs, *(row[0, :, slots].transpose(0, 1) for row in rows)]

    def _errors(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """How far each row of each output lies from the right one, as a share of a usual row."""
        errors = []
        for output, right in zip(outputs, self._right, strict=True):
            right, output = right.flatten(1), output.flatten(1)
            size = right.norm(dim=1).square().mean().sqrt().clamp(min=1e-30)
            errors.append((output.to(right.dtype) - right[: len(output)]).norm(dim=1) / size)
        return errors


def rounding(function: PassFunction, rows: Sequence[Tensor]) -> float:
    """What rounding comes to in a network of this precision, width and depth, as a share.

    Errors add up like the steps of a random walk: those of figures layer by layer, and those of
    sums, which are kept in float32, input by input.
    """
    depth = len(rows) // 2
    width = max(weight.shape[-1] for weight in function.parameters())
    unit, unit_of_sums = (torch.finfo(each).eps / 2 for each in (rows[0].dtype, torch.float32))
    return math.sqrt(depth) * (unit + math.sqrt(width) * unit_of_sums)


@contextmanager
def _fixed_rows(function: PassFunction, example: MakeExample, length: int) -> Iterator[None]:
    """Let the first rows of the cache be what the network writes for fixed tokens, repeated."""
    inputs, extra, rows = example(MAX_WIDTH, MAX_WIDTH)
    held = [row[:, :, :length].to("cpu", copy=True) for row in rows]
    try:
        there = (tensor.to(rows[0].device) for tensor in inputs)
        function(*there, *extra, *rows, length=MAX_WIDTH)
        places = torch.arange(length, device=rows[0].device) % _PERIOD
        for row in rows:
            row[:, :, :length] = row[:, :, places]
        yield
    finally:
        for row, former in zip(rows, held, strict=True):
            row[:, :, :length] = former


@contextmanager
def _stock(function: PassFunction) -> Iterator[None]:
    """Let a function be computed by torch's own operations, which know every precision."""
    # Inference mode would hide from `_Widened` what an operation is made of.
    normal = (torch.inference_mode(False), torch.no_grad())
    with normal[0], normal[1], without_kernel(function), unpacked(function):
        yield


class _Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs torch's operations in a higher precision: weights are widened where they are read.

    So no second network need fit into memory. Operations that are not torch's keep theirs.
    """

    def __init__(self, narrow: torch.dtype, wide: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._narrow, self._wide = narrow, wide
        self._narrower = [each for each in _PRECISIONS if each.itemsize < wide.itemsize]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        widen = partial(_converted, self._wide, self._narrower)
        given = (args, kwargs or {})
        if func.namespace != "aten":
            given = tree_map(partial(_converted, self._narrow, (self._wide,)), given)
        # A view of weights, or a few rows of them, is all that need be widened.
        elif not func.is_view and func is not torch.ops.aten.embedding.default:
            given = tree_map(widen, given)
        output = func(*given[0], **given[1])
        return output if func.is_view else tree_map(widen, output)


def _converted(dtype: torch.dtype, others: Sequence[torch.dtype], value: Any) -> Any:
    """A tensor or a precision that is one of the others, in this one; anything else as it is."""
    if isinstance(value, torch.dtype):
        return dtype if value in others else value
    is_plain = isinstance(value, Tensor) and value.layout == torch.strided
    return value.to(dtype) if is_plain and value.dtype in others else value
