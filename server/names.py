"""Names of models and of paths as people write them: `~` is home, and a folder is not an id."""

import os
import re
from pathlib import Path
from typing import Any

from engine import ConfigError

_STAGE_NAMES = ("model", "table")
_HUB_ID = re.compile(r"\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")


def at_home(name: Any) -> Any:
    """A name, with `~` as a shell reads it; whatever is none is left to be refused."""
    return os.path.expanduser(name) if isinstance(name, str) else name


def stages_at_home(stages: Any) -> Any:
    """The same for all that a list of stages names."""
    return list(map(_stage_at_home, stages)) if isinstance(stages, list) else stages


def _stage_at_home(stage: Any) -> Any:
    if not isinstance(stage, dict):
        return stage
    return {key: at_home(value) if key in _STAGE_NAMES else value for key, value in stage.items()}


def check_folder(name: str) -> None:
    """Refuse what can only be a folder and is none: the hub would say that it is no id."""
    if not (name.startswith("embedded/") or Path(name).is_dir() or _HUB_ID.fullmatch(name)):
        raise ConfigError(
            f"there is no folder {name!r}: name one with config.json and weights, a Hugging Face "
            "id, or embedded/target."
        )
