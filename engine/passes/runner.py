"""Runs a network's passes as its function does, as every runner does where nothing is faster.

`engine.acceleration` chooses the kind of a network's runner.
"""

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor

from engine.masks import Extent
from engine.passes.function import (
    FastPasses,
    Form,
    MakeExample,
    PassFunction,
    PassInputs,
    Record,
)

_log = logging.getLogger(__name__)


class EagerRunner:
    """One network's passes over one cache's rows, run by their function or by what is faster.

    `example(width, length)` makes arguments that read `length` rows, or all of them, and write none
    of a text's. Kinds that know how passes become fast change over by themselves.
    """

    def __init__(self, function: PassFunction, example: MakeExample) -> None:
        self.name = function.description
        self._function = function
        self._example = example
        self._rows = example(1, None).rows
        self._device = self._rows[0].device
        self._fast: FastPasses | None = None
        self.refusal: str | None = None
        """Why the passes stay eager in this process, if they do."""
        self.recorder: Record | None = None
        """What has recorded passes of this network, if anything has."""

    @property
    def form(self) -> Form:
        """How the passes of trees are run now."""
        return "eager" if self._fast is None else self._fast.form

    @property
    def widest(self) -> int | None:
        """The most rows of a pass that is run as others are; None: all are run alike."""
        return None if self._fast is None else self._fast.widest

    def num_padding(self, width: int) -> int:
        """How many rows of padding a pass over so many rows is to begin with."""
        return 0 if self._fast is None else self._fast.padding(width) or 0

    def run(
        self,
        inputs: PassInputs,
        extra: Sequence[Tensor] = (),
        extents: Iterable[Extent] | None = None,
    ) -> tuple[Tensor, ...]:
        """The function's outputs: logits of the rows that are scored, and others of all rows.

        `extents` are the parts of the cache that need to be read, by the rows of each text; only
        the function itself asks for them.
        """
        if self._fast is not None and self._fast.padding(inputs.width) == 0:
            return self._fast.run(inputs, extra)
        given = (*inputs, *self._function.grouping(inputs.rows), *extra)
        outputs: tuple[Tensor, ...] = self._function(
            *(tensor.to(self._device) for tensor in given),
            *self._rows,
            extents=None if extents is None else [*extents],
        )
        return outputs

    def call(self, inputs: PassInputs, extra: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """The function itself, of inputs on its own device: a part of something to be recorded."""
        function = self._function if self._fast is None else self._fast.function
        return function(*inputs, *extra, *self._rows)

    def _refuse(self, reason: str) -> None:
        """Let passes stay eager in this process."""
        self.refusal = reason
        _log.warning("passes stay eager: %s", reason)
