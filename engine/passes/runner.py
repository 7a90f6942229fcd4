"""Runs a network's passes: by a compiled package, or as recorded, where there is either."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.code_cache import is_usable
from engine.passes.captured import CapturedPasses, Record
from engine.passes.function import MAX_WIDTH, Example, FastPasses, Form, PassFunction, PassInputs
from engine.passes.package import LIBRARY, Package, compile_package, fingerprint

_log = logging.getLogger(__name__)
_EXAMPLE_WIDTH, _EXAMPLE_LENGTH = 8, 300
_PROVEN_WIDTHS = (1, 2, _EXAMPLE_WIDTH, MAX_WIDTH)
_TOLERANCE = 0.02
"""How far the outputs of fast passes may lie from the eager ones, in the largest of these."""


class PassRunner:
    """One network's passes over one cache's rows.

    `example(width, length)` makes arguments that read `length` rows, or all of them, and write none
    of a text's.
    """

    def __init__(
        self, function: PassFunction, example: Callable[[int, int | None], Example]
    ) -> None:
        self.name = function.description
        self._function = function
        self._example = example
        self._rows = example(1, None).rows
        self._device = self._rows[0].device
        self._fast: FastPasses | None = None
        self._captured: CapturedPasses | None = None
        self._is_refused = False
        self.recorder: Record | None = None
        """What has recorded passes of this network, if anything has."""

    @property
    def form(self) -> Form:
        """How the passes of trees are run now."""
        return "eager" if self._fast is None else self._fast.form

    def num_padding(self, width: int) -> int:
        """How many rows of padding a pass over so many rows is to begin with."""
        return 0 if self._fast is None else self._fast.padding(width) or 0

    def run(
        self,
        inputs: PassInputs,
        extra: Sequence[Tensor] = (),
        num_logits: int = 0,
        length: int | None = None,
    ) -> tuple[Tensor, ...]:
        """The function's outputs; at least the last `num_logits` rows get logits, 0 means all.

        `length` is that of the cache's part in use, behind which nothing needs to be read.
        """
        if self._fast is not None and self._fast.padding(inputs.width) == 0:
            return self._fast.run(inputs, extra)
        inputs = PassInputs(*(tensor.to(self._device) for tensor in inputs))
        outputs: tuple[Tensor, ...] = self._function(
            *inputs, *extra, *self._rows, num_logits=num_logits, length=length
        )
        return outputs

    def call(self, inputs: PassInputs, extra: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """The function itself, of inputs on its own device: a part of something to be recorded."""
        function = self._captured.function if self._captured else self._function
        outputs: tuple[Tensor, ...] = function(*inputs, *extra, *self._rows)
        return outputs

    def is_missing(self, folder: Path) -> bool:
        """Whether the package is neither in use nor in `folder` and could be made."""
        is_settled = self._fast is not None or self._is_refused
        return not is_settled and not is_usable(self._path(folder))

    def compile(self, folder: Path) -> None:
        """Make the package, for another process to adopt; the weights are packed by kernels."""
        example = self._example(_EXAMPLE_WIDTH, _EXAMPLE_LENGTH)
        compile_package(self._function, example, self._path(folder))

    def adopt(self, folder: Path) -> bool:
        """Use the package from now on if there is one; whether it is new.

        It proves itself first: its outputs must be the eager ones, up to rounding.
        """
        if self._fast is not None or self._is_refused:
            return False
        if not is_usable(path := self._path(folder)):
            return False
        try:
            package = Package(path, self._function, self._rows)
            self._prove(package, _PROVEN_WIDTHS)
            self._fast = package
        except Exception as error:  # whatever a foreign file may cause
            self._is_refused = True
            _log.warning("the compiled passes in %s are not used: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()  # the next start makes it anew
        return self._fast is not None

    @property
    def is_uncaptured(self) -> bool:
        """Whether there are passes to be captured."""
        is_complete = self._captured is not None and self._captured.is_complete
        return not (is_complete or self._is_refused)

    def capture(self, seconds: float, record: Record, is_fused: bool = False) -> bool:
        """Record passes that are not yet, for about so long; whether there are new ones.

        Each proves itself first. A function that cannot be recorded goes on being run eagerly.
        """
        if not self.is_uncaptured:
            return False
        try:
            captured = self._captured or CapturedPasses(
                self._function, self._example, record, is_fused
            )
            self._prove(captured, captured.capture(seconds))
        except Exception as error:  # whatever a network may do that a graph cannot hold
            self._is_refused, self._fast, self.recorder = True, None, None
            _log.warning("passes stay eager, since they cannot be captured: %s", error)
            return False
        self._fast = self._captured = captured
        self.recorder = record
        return True

    def _path(self, folder: Path) -> Path:
        return folder / f"{fingerprint(self._function, self._rows)}{LIBRARY}"

    @torch.inference_mode()
    def _prove(self, fast: FastPasses, widths: Iterable[int]) -> None:
        """Raise ValueError unless these passes do to outputs and cache what the function does."""
        for width, length in itertools.product(widths, (None, _EXAMPLE_LENGTH)):
            inputs, extra, rows = self._example(width, length)
            there = PassInputs(*(tensor.to(self._device) for tensor in inputs))
            slots = there.tokens[2]
            expected = [*self._function(*there, *extra, *rows)]
            expected += [row[:, :, slots] for row in rows]
            for row in rows:
                row[:, :, slots] = 0.0
            outputs = [*fast.run(inputs, extra)]
            outputs += [row[:, :, slots] for row in rows]
            for output, wanted in zip(outputs, expected, strict=True):
                error = (output - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
                if not error < _TOLERANCE:
                    raise ValueError(f"a pass of {width} rows differs from the eager one: {error}")
