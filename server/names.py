"""Names of models and of paths as people write them: `~` is home."""

import os
from collections.abc import Mapping
from typing import Any

_NAMES = ("model", "lora", "table", "cache_dir")
_STAGES = ("stages", "alternatives")


def at_home(name: Any) -> Any:
    """A name, with `~` as a shell reads it; whatever is none is left to be refused."""
    return os.path.expanduser(name) if isinstance(name, str) else name


def engine_at_home(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same for all that an engine's settings name, and their stages."""
    return {key: _value_at_home(key, value) for key, value in settings.items()}


def _value_at_home(key: str, value: Any) -> Any:
    if key in _STAGES and isinstance(value, list):
        return [engine_at_home(each) if isinstance(each, dict) else each for each in value]
    return at_home(value) if key in _NAMES else value
