"""Runs a network's passes by a package that another process has compiled, where there is one."""

from pathlib import Path

from engine.code_cache import is_usable, remember, verdict
from engine.errors import in_one_line
from engine.geometry import MAX_WIDTH
from engine.passes import proof
from engine.passes.function import LONGEST_REASON
from engine.passes.package import (
    LIBRARY,
    Package,
    compile_package,
    fingerprint,
    fingerprint_of_weights,
)
from engine.passes.proof import WrongPassError, prove
from engine.passes.runner import EagerRunner

_EXAMPLE_WIDTH = 8
_PROVEN_WIDTHS = (1, 2, _EXAMPLE_WIDTH, MAX_WIDTH)


class CompiledRunner(EagerRunner):
    """Takes the package of its network from a folder, or makes it there for other processes."""

    def is_missing(self, folder: Path) -> bool:
        """Whether the package is neither in use nor in `folder` and is worth making."""
        is_settled = self._fast is not None or self.refusal is not None
        path = self._path(folder)
        return not (is_settled or is_usable(path) or verdict(self._with_weights(path), proof))

    def compile(self, folder: Path) -> None:
        """Make the package, for another process to take; the weights are packed by kernels."""
        example = self._example(_EXAMPLE_WIDTH, None)
        compile_package(self._function, example, self._path(folder))

    def take_package(self, folder: Path) -> bool:
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
                said = in_one_line(error)[:LONGEST_REASON]
                self._refuse(f"what was compiled could not be loaded and tried ({said})")

    def _path(self, folder: Path) -> Path:
        return folder / f"{fingerprint(self._function, self._rows)}{LIBRARY}"

    def _with_weights(self, path: Path) -> Path:
        """What a verdict is about: the package with the weights of this network."""
        return path.with_stem(f"{path.stem}-{fingerprint_of_weights(self._function)}")
