"""Runs a network's passes: by a compiled package, or as recorded, where there is either."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from engine.code_cache import is_usable, remember, verdict
from engine.errors import in_one_line
from engine.geometry import MAX_WIDTH
from engine.masks import Extent
from engine.passes import proof
from engine.passes.captured import CapturedPasses, Record
from engine.passes.function import Example, FastPasses, Form, PassFunction, PassInputs
from engine.passes.package import (
    LIBRARY,
    Package,
    compile_package,
    fingerprint,
    fingerprint_of_weights,
)
from engine.passes.proof import WrongPassError, prove

_log = logging.getLogger(__name__)
_EXAMPLE_WIDTH = 8
_LONGEST_REASON = 200
_PROVEN_WIDTHS = (1, 2, _EXAMPLE_WIDTH, MAX_WIDTH)


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
        self._is_fusible = True
        self.refusal: str | None = None
        """Why the passes stay eager in this process, if they do."""
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
        extents: Sequence[Extent] | None = None,
    ) -> tuple[Tensor, ...]:
        """The function's outputs; at least the last `num_logits` rows get logits, 0 means all.

        `extents` are the parts of the cache that need to be read, by the rows of each text.
        """
        if self._fast is not None and self._fast.padding(inputs.width) == 0:
            return self._fast.run(inputs, extra)
        inputs = PassInputs(*(tensor.to(self._device) for tensor in inputs))
        outputs: tuple[Tensor, ...] = self._function(
            *inputs, *extra, *self._rows, num_logits=num_logits, extents=extents
        )
        return outputs

    def call(self, inputs: PassInputs, extra: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """The function itself, of inputs on its own device: a part of something to be recorded."""
        function = self._captured.function if self._captured else self._function
        outputs: tuple[Tensor, ...] = function(*inputs, *extra, *self._rows)
        return outputs

    def is_missing(self, folder: Path) -> bool:
        """Whether the package is neither in use nor in `folder` and is worth making."""
        is_settled = self._fast is not None or self.refusal is not None
        path = self._path(folder)
        return not (is_settled or is_usable(path) or verdict(self._with_weights(path), proof))

    def compile(self, folder: Path) -> None:
        """Make the package, for another process to adopt; the weights are packed by kernels."""
        example = self._example(_EXAMPLE_WIDTH, None)
        compile_package(self._function, example, self._path(folder))

    def adopt(self, folder: Path) -> bool:
        """Use the package from now on if there is one; whether it is new.

        It proves itself first. What is wrong with these weights is remembered, since it would be
        again; with others of the same shapes it may be right, so it stays.
        """
        path = self._path(folder)
        if self._fast is not None or self.refusal is not None:
            return False
        if reason := verdict(self._with_weights(path), proof):
            self._refuse(reason)
        elif is_usable(path):
            self._try(path)
        return self._fast is not None

    def _try(self, path: Path) -> None:
        try:
            package = Package(path, self._function, self._rows)
            prove(package, self._function, self._example, _PROVEN_WIDTHS)
            self._fast = package
        except WrongPassError as error:
            self._refuse(f"what was compiled is wrong: {error}")
            if error.is_certain:
                remember(self._with_weights(path), proof, f"what was compiled is wrong: {error}")
        except Exception as error:  # whatever a foreign file, or a machine short of room, may cause
            # Another server may have taken it away.
            if is_usable(path):
                said = in_one_line(error)[:_LONGEST_REASON]
                self._refuse(f"what was compiled could not be loaded and tried ({said})")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        _log.warning("passes stay eager: %s", reason)

    @property
    def is_uncaptured(self) -> bool:
        """Whether there are passes to be captured."""
        is_complete = self._captured is not None and self._captured.is_complete
        return not is_complete and self.refusal is None

    def capture(self, seconds: float, record: Record, is_fused: bool = False) -> bool:
        """Record passes that are not yet, for about so long; whether there are new ones.

        Each proves itself first. What cannot be fused is recorded as it is, and a function that
        cannot be recorded either goes on being run eagerly.
        """
        if not self.is_uncaptured:
            return False
        is_fused = is_fused and self._is_fusible
        try:
            captured = self._captured or CapturedPasses(
                self._function, self._example, record, is_fused
            )
            prove(captured, self._function, self._example, captured.capture(seconds))
        except WrongPassError as error:
            reason = f"what was captured is wrong: {error}"
        except Exception as error:  # whatever a network may do that a graph cannot hold
            said = in_one_line(error)[:_LONGEST_REASON]
            reason = f"they could not be captured and tried ({said})"
        else:
            self._fast = self._captured = captured
            self.recorder = record
            return True
        self._fast = self._captured = self.recorder = None
        if is_fused:
            self._is_fusible = False
            _log.warning("passes are not fused: %s", reason)
            return self.capture(seconds, record)
        self._refuse(reason)
        return False

    def _path(self, folder: Path) -> Path:
        return folder / f"{fingerprint(self._function, self._rows)}{LIBRARY}"

    def _with_weights(self, path: Path) -> Path:
        """What a verdict is about: the package with the weights of this network."""
        return path.with_stem(f"{path.stem}-{fingerprint_of_weights(self._function)}")
