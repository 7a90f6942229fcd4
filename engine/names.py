"""What a name means: a folder, a GGUF file, a part of the family that ships with the engine, a
model that comes as a package, or an id of the hub, with a quantisation of a GGUF file in it."""

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from engine.code_cache import cache_root
from engine.errors import ModelLoadError, first_line
from engine.hub import find_in_hub
from engine.packaged import PACKAGED

_EMBEDDED = Path(__file__).parent
_HUB_ID = re.compile(r"\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")
_GGUF = ".gguf"
_FORM = "1"
"""Of what is written of a GGUF file: another one is written anew."""


def find_gguf(name: str) -> Path | None:
    """The GGUF file that a name means, if it means one.

    It is named by its path, is alone in its folder, comes as a package, or is in a repository of
    the hub: then it is downloaded first.

    Raises ModelLoadError, with the remedy, for one that is not there, and for several.
    """
    if (packaged := PACKAGED.get(name)) is not None:
        return packaged.file()
    path = Path(name)
    if path.suffix.lower() == _GGUF:
        if not path.is_file():
            raise ModelLoadError(f"there is no file {name!r}: name a GGUF file that is there.")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None if path.exists() else find_in_hub(name)
    found = sorted(path.glob(f"*{_GGUF}"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise ModelLoadError(f"{name!r} holds several GGUF files: name one of them ({names}).")
    return found[0] if found else None


def short_name(name: str) -> str:
    """What a log calls a model: of the path of a GGUF file its end."""
    return Path(name).name if name.lower().endswith(_GGUF) else name


def described(file: Path) -> Path:
    """The folder of the cache where what a GGUF file says of its model is written, or will be.

    It belongs to this content of the file, told by its size and time, and to who has read it.
    """
    try:
        path, about = file.resolve(), file.stat()
    except OSError as error:
        raise ModelLoadError(f"{str(file)!r} cannot be read: {first_line(error)}.") from error
    readers = [version(name) for name in ("transformers", "gguf")]
    facts = [str(path), about.st_size, about.st_mtime_ns, *readers, _FORM]
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
    return cache_root() / "models" / f"{file.stem}-{digest}"


def resolve(name: str) -> str:
    """The folder of an `embedded/...` name, or of what a GGUF file says; any other name as it is.

    Raises ModelLoadError as `find_gguf` does.
    """
    if (file := find_gguf(name)) is not None:
        return str(described(file))
    return str(_EMBEDDED / name) if name.startswith("embedded/") else name


def find_folder(name: str) -> Path | None:
    """The folder that a name means; None for an id of the hub.

    That of a GGUF file is there once it is unpacked. Raises ModelLoadError as `resolve` does, and
    for what can only be a folder and is none: the hub would call it no id.
    """
    folder = Path(resolve(name))
    if folder.is_dir() or find_gguf(name) is not None:
        return folder
    if folder.exists():
        raise ModelLoadError(
            f"{name!r} is a file: name the folder that holds config.json beside, or a GGUF file."
        )
    if name.startswith("embedded/") or not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"there is no folder {name!r}: name one with config.json and weights, a GGUF file, a "
            "Hugging Face id, embedded/target or smollm2."
        )
    return None
