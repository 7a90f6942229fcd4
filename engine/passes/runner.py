"""Runs a network's passes, by a compiled package where there is one for the width."""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.passes.function import PassFunction, PassInputs
from engine.passes.package import KINDS, Example, Kind, Package, compile_package, fingerprint

Form = Literal["eager", "compiled"]

_log = logging.getLogger(__name__)
_TUNED_LENGTH = 300
_TOLERANCE = 0.02
"""How far a package's outputs may lie from the eager ones, in the largest of these."""


class PassRunner:
    """One network's passes over one cache's rows.

    `example(width, length)` makes arguments that read `length` rows, or all of them, and write none
    of a text's. `weights` is the digest of the network's; None for one that is never compiled.
    """

    def __init__(
        self,
        function: PassFunction,
        example: Callable[[int, int | None], Example],
        weights: str | None = None,
    ) -> None:
        self._function = function
        self._example = example
        self._rows = example(1, None).rows
        self.name = None if weights is None else fingerprint(function, weights, self._rows)
        self._packages: dict[Kind, Package] = {}
        self._refused: set[Kind] = set()

    @property
    def form(self) -> Form:
        """How passes are run now; "compiled" once packages cover every width of a tree."""
        return "compiled" if len(self._packages) == len(KINDS) else "eager"

    def run(
        self, inputs: PassInputs, extra: Sequence[Tensor] = (), num_logits: int = 0
    ) -> tuple[Tensor, ...]:
        """The function's outputs; at least the last `num_logits` rows get logits, 0 means all."""
        for kind, package in self._packages.items():
            if kind.smallest <= inputs.width <= kind.largest:
                return package(*inputs, *extra, *self._rows)
        outputs: tuple[Tensor, ...] = self._function(
            *inputs, *extra, *self._rows, num_logits=num_logits
        )
        return outputs

    def missing(self, folder: Path) -> list[Kind]:
        """The kinds whose package is neither in use nor in `folder` and could be made."""
        if self.name is None:
            return []
        settled = {*self._packages, *self._refused}
        wanted = (kind for kind in KINDS if kind not in settled)
        return [kind for kind in wanted if not _is_readable(self._path(folder, kind))]

    def compile(self, folder: Path) -> None:
        """Make the missing packages, for another process to adopt. Weights must not be packed."""
        for kind in self.missing(folder):
            path = self._path(folder, kind)
            compile_package(self._function, kind, self._example(kind.tuned, _TUNED_LENGTH), path)

    def adopt(self, folder: Path) -> bool:
        """Use what packages there are from now on; whether there was a new one.

        Each proves itself first: its outputs must be the eager ones, up to rounding.
        """
        num_before = len(self._packages)
        for kind in KINDS:
            if self.name is None or kind in self._packages or kind in self._refused:
                continue
            if _is_readable(path := self._path(folder, kind)):
                try:
                    self._packages[kind] = self._proven(Package(path), kind)
                except Exception as error:  # whatever a foreign file may cause
                    self._refused.add(kind)
                    _log.warning("the compiled passes in %s are not used: %s", path, error)
                    with contextlib.suppress(OSError):
                        path.unlink()  # the next start makes it anew
        return len(self._packages) > num_before

    @torch.inference_mode()
    def _proven(self, package: Package, kind: Kind) -> Package:
        for width, length in itertools.product(
            {kind.smallest, kind.tuned, kind.largest}, (None, _TUNED_LENGTH)
        ):
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

    def _path(self, folder: Path, kind: Kind) -> Path:
        return folder / str(self.name) / f"{kind.name}.pt2"


def _is_readable(path: Path) -> bool:
    """Whether there is such a file, which this user may read."""
    return os.access(path, os.R_OK)
