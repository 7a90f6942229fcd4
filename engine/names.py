"""What a name means: a folder, a part of the family that ships with the engine, a model that comes
as a package, or an id of the hub."""

import re
from pathlib import Path

from engine.errors import ModelLoadError
from engine.packaged import PACKAGED

_EMBEDDED = Path(__file__).parent
_HUB_ID = re.compile(r"\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")


def resolve(name: str) -> str:
    """The folder of an `embedded/...` name or a packaged model; any other name as it is.

    Raises ModelLoadError, with what to install, for a packaged model that is not there.
    """
    if (packaged := PACKAGED.get(name)) is not None:
        return str(packaged.folder())
    return str(_EMBEDDED / name) if name.startswith("embedded/") else name


def find_folder(name: str) -> Path | None:
    """The folder that a name means; None for an id of the hub.

    That of a packaged model is there once it is unpacked. Raises ModelLoadError as `resolve` does,
    and for what can only be a folder and is none: the hub would call it no id.
    """
    folder = Path(resolve(name))
    if folder.is_dir() or name in PACKAGED:
        return folder
    if folder.exists():
        raise ModelLoadError(f"{name!r} is a file: name the folder that holds config.json beside.")
    if name.startswith("embedded/") or not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"there is no folder {name!r}: name one with config.json and weights, a Hugging Face "
            "id, embedded/target or smollm2."
        )
    return None
