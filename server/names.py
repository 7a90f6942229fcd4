"""Names of models and of paths as people write them: `~` is home."""

import os
from typing import Any

_STAGE_NAMES = ("model", "table")


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
