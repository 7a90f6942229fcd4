"""Runs a network's passes, by a compiled package where there is one."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.kernels import is_usable
from engine.passes.crowd import CROWD
from engine.passes.function import PassFunction, PassInputs
from engine.passes.package import MAX_WIDTH, Example, Package, compile_package, fingerprint

Form = Literal["eager", "compiled"]

_log = logging.getLogger(__name__)
_EXAMPLE_WIDTH, _EXAMPLE_LENGTH = 8, 300
_PROVEN_WIDTHS = (1, 2, _EXAMPLE_WIDTH, MAX_WIDTH)
_TOLERANCE = 0.02
"""How far a package's outputs may lie from the eager ones, in the largest of these."""


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
        self._package: Package | None = None
        self._is_refused = False

    @property
    def form(self) -> Form:
        """How the passes of trees are run now."""
        return "eager" if self._package is None else "compiled"

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
        if self._package is not None and inputs.width <= MAX_WIDTH:
            package = partial(self._package, *inputs, *extra, *self._rows)
            return CROWD.run((id(self), inputs.width), package)
        inputs = PassInputs(*(tensor.to(self._device) for tensor in inputs))
        outputs: tuple[Tensor, ...] = self._function(
            *inputs, *extra, *self._rows, num_logits=num_logits, length=length
        )
        return outputs

    def is_missing(self, folder: Path) -> bool:
        """Whether the package is neither in use nor in `folder` and could be made."""
        is_settled = self._package is not None or self._is_refused
        return not is_settled and not is_usable(self._path(folder))

    def compile(self, folder: Path) -> None:
        """Make the package, for another process to adopt; the weights are packed by kernels."""
        example = self._example(_EXAMPLE_WIDTH, _EXAMPLE_LENGTH)
        compile_package(self._function, example, self._path(folder))

    def adopt(self, folder: Path) -> bool:
        """Use the package from now on if there is one; whether it is new.

        It proves itself first: its outputs must be the eager ones, up to rounding.
        """
        if self._package is not None or self._is_refused:
            return False
        if not is_usable(path := self._path(folder)):
            return False
        try:
            self._package = self._proven(Package(path, self._function))
        except Exception as error:  # whatever a foreign file may cause
            self._is_refused = True
            _log.warning("the compiled passes in %s are not used: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()  # the next start makes it anew
        return self._package is not None

    def _path(self, folder: Path) -> Path:
        return folder / f"{fingerprint(self._function, self._rows)}.pt2"

    @torch.inference_mode()
    def _proven(self, package: Package) -> Package:
        for width, length in itertools.product(_PROVEN_WIDTHS, (None, _EXAMPLE_LENGTH)):
            inputs, extra, rows = self._example(width, length)
            expected = [*self._function(*inputs, *extra, *rows)]
            expected += [row[:, :, inputs.slots] for row in rows]
            for row in rows:
                row[:, :, inputs.slots] = 0.0
            outputs = [*package(*inputs, *extra, *rows)]
            outputs += [row[:, :, inputs.slots] for row in rows]
            for output, wanted in zip(outputs, expected, strict=True):
                error = (output - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
                if not error < _TOLERANCE:
                    raise ValueError(f"a pass of {width} rows differs from the eager one: {error}")
        return package
