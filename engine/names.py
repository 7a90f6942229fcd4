"""What a name means: a folder, a part of the family that ships with the engine, or an id of the
hub."""

import re
from pathlib import Path

from engine.errors import ModelLoadError

_EMBEDDED = Path(__file__).parent
_HUB_ID = re.compile(r"\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")


def resolve(name: str) -> str:
    """The folder of an `embedded/...` name; any other name as it is."""
    return str(_EMBEDDED / name) if name.startswith("embedded/") else name


def find_folder(name: str) -> Path | None:
    """The folder that a name means; None for an id of the hub.

    Raises ModelLoadError for what can only be a folder and is none: the hub would call it no id.
    """
    folder = Path(resolve(name))
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelLoadError(f"{name!r} is a file: name the folder that holds config.json beside.")
    if name.startswith("embedded/") or not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"there is no folder {name!r}: name one with config.json and weights, a Hugging Face "
            "id, or embedded/target."
        )
    return None
