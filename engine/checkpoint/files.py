"""Whether the files of a checkpoint are whole, before anything is loaded from them."""

import json
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ModelLoadError, first_line
from engine.names import find_folder

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_POINTER = b"version https://git-lfs"


def check_configuration(name: str) -> None:
    """Refuse a folder whose configuration is not what its name says.

    An id of the hub is not looked at: what was downloaded is whole. Raises ModelLoadError.
    """
    if (folder := find_folder(name)) is None:
        return
    read_json(folder / "config.json")
    if (generation := folder / "generation_config.json").exists():
        read_json(generation)


def check_files(name: str) -> None:
    """The same of its weights, which takes reading a pickle whole. Raises ModelLoadError."""
    folder = find_folder(name)
    if folder is None or "transformers_weights" in read_json(folder / "config.json"):
        return
    for file in weight_files(folder):
        check_weights(file)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from its file. Raises ModelLoadError."""
    if not file.exists() and (file.parent / "adapter_config.json").exists():
        raise ModelLoadError(
            f"{str(file.parent)!r} is an adapter without its base model: name that model, and this "
            "folder in `lora` (--lora)."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{str(file.parent)!r} holds no {file.name}: give the folder of a checkpoint in "
            "Hugging Face's layout."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(
            f"{str(file)!r} cannot be read: {first_line(error)}. Download it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{str(file)!r} is not a JSON object. Download it again.")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads, the first kind that is there. Raises ModelLoadError."""
    for name in _WEIGHTS:
        if (file := folder / name).exists():
            return [file]
        if (index := folder / f"{name}.index.json").exists():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict):
                raise ModelLoadError(f"{str(index)!r} has no weight_map. Download it again.")
            return [folder / shard for shard in sorted(set(map(str, shards.values())))]
    raise ModelLoadError(
        f"{str(folder)!r} holds no weights: transformers reads {', '.join(_WEIGHTS)}, or their "
        "shards by an index."
    )


def check_weights(file: Path) -> None:
    """Refuse a file of weights that is missing, cut short, or a stand-in. Raises ModelLoadError."""
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_POINTER)) == _POINTER
        if is_pointer:
            raise ModelLoadError(
                f"{str(file)!r} is a git-lfs pointer, not the weights: run `git lfs pull` in its "
                "repository."
            )
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(
            f"the weights {str(file)!r} are missing, damaged or cut short "
            f"({first_line(error)}): download them again."
        ) from error
    if file.suffix != ".safetensors":
        _check_pickle(file)


def _check_pickle(file: Path) -> None:
    """Refuse a pickle that is damaged, or that would run code, before anything is read from it."""
    try:
        torch.load(file, map_location="meta", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # whatever bytes that are no pickle may cause
        raise ModelLoadError(
            f"the weights {str(file)!r} are damaged, cut short, or a pickle of more than weights, "
            "of which nothing was run: choose a checkpoint in safetensors, or download them again."
        ) from error
