"""Whether fast passes compute what their function does, up to rounding.

The judge is the function itself in a higher precision, over the same fixed contents of the cache.
What the function in its own precision is off by, at its worst row, is what rounding does there, or
more, what so many layers of such a width make of it: fast passes may be off by a few times as much.
A wrong mask, position or row of the cache is off by far more.

It takes as long as a few passes: one of all rows over a short text, and one of few over a long one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from engine.attention import without_grouped_experts, without_kernel
from engine.geometry import MAX_WIDTH
from engine.masks import Extent
from engine.passes.function import (
    Example,
    FastPasses,
    MakeExample,
    PassFunction,
    PassInputs,
)
from engine.weights import unpacked

_SHORT, _LONG = MAX_WIDTH + 5, 2000
"""Rows of the cache that passes read: few, so that each tells, and many, as far as there are."""
_FEW = 8
"""Rows of a pass that are judged where many are read."""
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)
_PERIOD = 61
_FACTOR = 4.0
_LARGEST = 0.25
"""Of an error that is still called rounding: more could not be told from a mistake."""
_OWN, _LARGEST_OWN = 1.5, 0.5
"""Of what the function is off by itself, where that is more, as in a deep network whose products
round what they are given to 8 bits."""
_CHOICES = (torch.ops.aten.topk, torch.ops.aten.sort, torch.ops.aten.argmax)
"""Operations by which a network chooses among its parts, as among experts."""
_MOST, _HALF = 3 / 4, 1 / 2
"""Of the rows of such a network tell what rounding does, and must come out right."""


class WrongPassError(ValueError):
    """Fast passes that compute something else than their function.

    If `is_certain` they do so whenever they have these weights; else it may be the network's own
    rounding, which is beyond what can be told from a mistake.
    """

    def __init__(self, message: str, is_certain: bool) -> None:
        super().__init__(message)
        self.is_certain = is_certain


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
    # A quarter of a window more, since of thousands of rows a few that are too many do not tell.
    far = max(_LONG, function.window + function.window // 4)
    trials = ((min(_SHORT, capacity), MAX_WIDTH), (min(far, capacity), _FEW))
    with _fixed_rows(function, example, trials[-1][0]) as fill, _fixed_states(function):
        for length, num_judged in trials:
            fill(length)
            trial = _Trial(function, example(MAX_WIDTH, length), length, num_judged)
            for width in widths:
                trial.judge(fast, width)
            trial.judge(fast, max(widths), is_scored=False)  # as a prompt's are not


class _Trial:
    """What is right for the first `num_judged` rows of a tree, in whatever passes they are fed."""

    def __init__(
        self, function: PassFunction, example: Example, length: int, num_judged: int
    ) -> None:
        self._inputs, self._extra, tensors = example
        self._length = length
        rows, kept = _parted(function, tensors)
        device = rows[0].device
        slots = self._inputs.rows[1].to(device)
        written = function.states.written(self._inputs.rows) if function.states else []
        self._written: list[_Written] = [
            *(_Written(place, 2, slots) for place in range(len(rows))),
            *(_Written(len(rows) + place, 0, each.to(device)) for place, each in written),
        ]
        self._tensors, self._num_turns = tensors, 2 if function.states else 1
        inputs, extra = self._part(0, num_judged)
        given = [each.to(device) for each in (*inputs, *function.grouping(inputs.rows), *extra)]
        narrow = rows[0].dtype
        wide = torch.float64 if narrow == torch.float32 else torch.float32
        with _stock(function), _Widened(narrow, wide) as mode:
            ends = {place: int(each.max()) + 1 for place, each in written}
            copies = [
                *(row[:, :, :length].to(wide) for row in rows),
                *(each[: ends.get(i)].to(wide, copy=True) for i, each in enumerate(kept)),
            ]
            right = _in_order(function(*given, *copies))
            self._right = self._with_written(right, copies, num_judged)
        self._has_choices = mode.has_choices
        extents = [Extent(len(inputs.visible), 0, length)]
        outputs = _in_order(function(*given, *tensors, extents=extents))
        errors = self._errors(self._with_written(outputs, tensors, num_judged), _MOST)
        floor = rounding(function, rows)
        self._bounds = [_bound(error, floor) for error in errors]

    def judge(self, fast: FastPasses, width: int, is_scored: bool = True) -> None:
        """Raise WrongPassError unless rows come out right in passes of this width.

        If they are not scored, that is what they write.
        """
        for each in self._written:
            self._tensors[each.place].index_fill_(each.axis, each.rows, 0.0)
        # One row that chooses otherwise tells nothing; what rows change is read by a later pass.
        num_rows = max(width, _FEW) if self._has_choices else width * self._num_turns
        num_rows = min(num_rows, self._inputs.width)
        starts = range(0, num_rows, width)
        parts = [fast.run(*self._part(start, start + width, is_scored)) for start in starts]
        outputs = [torch.cat(each) for each in zip(*map(_in_order, parts), strict=True)]
        errors = self._errors(self._with_written(outputs, self._tensors, num_rows), _HALF)
        for error, bound in zip(errors, self._bounds, strict=True):
            if not error <= bound:  # nor is what is not a number
                raise WrongPassError(
                    f"a pass of {width} rows that reads {self._length} is off by {error:.2g}, of "
                    f"which rounding explains {bound:.2g}",
                    is_certain=bound < _LARGEST and not self._has_choices,
                )

    def _part(
        self, start: int, end: int, is_scored: bool = True
    ) -> tuple[PassInputs, list[Tensor]]:
        """The inputs of some rows of the tree, scored from the last, and the network's own ones."""
        rows, visible, windowed, _ = self._inputs
        rows = rows[:, start:end].contiguous()
        scored = torch.arange(rows.shape[1] if is_scored else 0).flip(0)
        inputs = PassInputs(rows, visible[start:end], windowed[start:end], scored)
        return inputs, [each[:, start:end] for each in self._extra]

    def _with_written(
        self, outputs: Sequence[Tensor], tensors: Sequence[Tensor], num_rows: int
    ) -> list[Tensor]:
        """The outputs and what has been written to the cache, by row, in passes of so many."""
        written = [
            tensors[place].index_select(axis, rows[:num_rows]).movedim(axis, 0)
            for place, axis, rows in self._written
        ]
        return [*outputs, *written]

    def _errors(self, outputs: Sequence[Tensor], share: float) -> list[float]:
        """How far the worst row of each output is from the right one, as a share of a usual row.

        In a network that chooses it is how far this share of the rows is at most: where two experts
        are worth the same, rounding decides, and the row is another one. Of no rows none is wrong.
        """
        errors = []
        for output, right in zip(outputs, self._right, strict=True):
            right, output = right.flatten(1), output.flatten(1)
            size = right.norm(dim=1).square().mean().sqrt().clamp(min=1e-30)
            num_rows = min(len(output), len(right))
            distances = (output[:num_rows].to(right.dtype) - right[:num_rows]).norm(dim=1) / size
            worst = distances.quantile(share if self._has_choices else 1.0) if num_rows else 0.0
            errors.append(float(worst))
        return errors


def _in_order(outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Outputs of rows that were scored from the last to the first."""
    logits, *others = outputs
    return logits.flip(0), *others


def _bound(error: float, floor: float) -> float:
    """What rounding explains where the function's own comes to `error`."""
    explained = min(_FACTOR * max(error, floor), _LARGEST)
    return max(explained, min(_OWN * error, _LARGEST_OWN))


def rounding(function: PassFunction, rows: Sequence[Tensor]) -> float:
    """What rounding comes to in a network of this precision, width and depth, as a share.

    Errors add up like the steps of a random walk: those of figures layer by layer, and those of
    sums, which are kept in float32, input by input.
    """
    depth = len(function.layers)
    width = max(weight.shape[-1] for weight in function.parameters())
    unit, unit_of_sums = (torch.finfo(each).eps / 2 for each in (rows[0].dtype, torch.float32))
    return math.sqrt(depth) * (unit + math.sqrt(width) * unit_of_sums)


@contextmanager
def _fixed_rows(
    function: PassFunction, example: MakeExample, length: int
) -> Iterator[Callable[[int], None]]:
    """What lets so many rows of the cache, `length` at most, be what fixed tokens write, repeated.

    Those that are too far away for a window are all one: else more of them would tell nothing new.
    """
    inputs, extra, tensors = example(MAX_WIDTH, MAX_WIDTH)
    rows, device = _parted(function, tensors)[0], tensors[0].device
    held = [row[:, :, :length].to("cpu", copy=True) for row in rows]
    try:
        given = (*inputs, *function.grouping(inputs.rows), *extra)
        extents = [Extent(MAX_WIDTH, 0, MAX_WIDTH)]
        function(*(each.to(device) for each in given), *tensors, extents=extents)
        written = [row[:, :, :_PERIOD].clone() for row in rows]

        def fill(length: int) -> None:
            places = torch.arange(length, device=device) % _PERIOD
            if function.window:
                places[: max(0, length - MAX_WIDTH - function.window)] = 0
            for row, sample in zip(rows, written, strict=True):
                row[:, :, :length] = sample[:, :, places]

        yield fill
    finally:
        for row, former in zip(rows, held, strict=True):
            row[:, :, :length] = former


@contextmanager
def _fixed_states(function: PassFunction) -> Iterator[None]:
    """Let all seats have the state behind what a pass has just written at the first one.

    What lies behind committed texts is nobody's between steps.
    """
    if (states := function.states) is None:
        yield
        return
    held = [states.copy(seat) for seat in states.seats]
    try:
        states.restore(0, None)
        states.fold(0, range(_PERIOD))
        filled = states.copy(0)
        for seat in states.seats:
            states.restore(seat, filled)
        yield
    finally:
        for seat, former in zip(states.seats, held, strict=True):
            states.restore(seat, former)


class _Written(NamedTuple):
    """Rows that a pass writes along an axis of the tensor at this place."""

    place: int
    axis: int
    rows: Tensor


def _parted(
    function: PassFunction, tensors: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The rows of the cache, and what layers keep in place of rows."""
    count = len(tensors) - (len(function.states.tensors) if function.states else 0)
    return tensors[:count], tensors[count:]


@contextmanager
def _stock(function: PassFunction) -> Iterator[None]:
    """Let a function be computed by torch's own operations, which know every precision."""
    # Inference mode would hide from `_Widened` what an operation is made of.
    normal = (torch.inference_mode(False), torch.no_grad())
    plain = (without_kernel(function), without_grouped_experts(function), unpacked(function))
    with normal[0], normal[1], plain[0], plain[1], plain[2]:
        yield


class _Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs torch's operations in a higher precision: weights are widened where they are read.

    So no second network need fit into memory. Operations that are not torch's keep theirs.
    `has_choices` tells whether the figures have decided what is run.
    """

    def __init__(self, narrow: torch.dtype, wide: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._narrow, self._wide = narrow, wide
        self.has_choices = False
        self._narrower = [each for each in _PRECISIONS if each.itemsize < wide.itemsize]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.has_choices |= func.overloadpacket in _CHOICES or func is torch.ops.aten.max.dim
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
