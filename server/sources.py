"""Where settings come from: flags > environment > YAML > default.

An error names the source at fault, and what to do about it.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import ValidationError

from engine import ConfigError, EngineConfig, did_you_mean, find_folder, in_one_line, nearest
from server.names import at_home
from server.settings import ENGINE_KEYS, Settings

_log = logging.getLogger(__name__)

ENV_PREFIX = "STAGETREE_"
# As like a setting's name as that a variable means it. STAGETREE_SERVICE_HOST, which clusters make
# up for a service, is as like one as 0.6.
_MISSPELT = 0.75
DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"


def load_settings(config: Path | None, flags: Mapping[str, object]) -> Settings:
    """Merge flags, environment and a YAML file; raises ConfigError naming source and remedy.

    Without `config` the embedded family's file is read, unless another model is named: its stages
    would not fit. ModelLoadError tells of a model's folder that is not there.
    """
    environment = _environment()
    names_model = "model" in flags or "model" in environment
    path = config or (None if names_model else DEFAULT_CONFIG)
    from_file = _read_yaml(path) if path else {}
    try:
        settings = Settings(**{**from_file, **environment, **flags})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        named = _source(key, flags, environment) or f"{path or 'configuration'}: {key}"
        raise ConfigError(f"{named}: {first['msg']}") from error
    except ConfigError as error:  # which names the key, and the place in it
        source = _source(error.key, flags, environment) or path or "configuration"
        raise ConfigError(f"{source}: {error}") from error
    for name in _models(settings.engine):
        find_folder(name)
    return settings


def is_debugging() -> bool:
    """Whether the environment asks for the debug log, as it can of every command."""
    return os.environ.get(f"{ENV_PREFIX}LOG_LEVEL") == "debug"


def _environment() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in sorted(os.environ.items()):
        if name.upper().startswith(ENV_PREFIX):
            key = name[len(ENV_PREFIX) :].lower()
            # An empty key is refused; other empty variables count as unset.
            if _is_setting(key, name.upper()) and (value or key == "api_key"):
                found[key] = _parsed(key, value)
    return found


def _is_setting(key: str, variable: str) -> bool:
    """Refuse a misspelt setting; others may mean somebody else by our name, and are told."""
    known = Settings.names()
    if key in known:
        return True
    meant = nearest(key, known)
    hint = f" Did you mean {ENV_PREFIX}{meant.upper()}?" if meant else ""
    if nearest(key, known, cutoff=_MISSPELT):
        raise ConfigError(f"{variable}: there is no such setting.{hint}")
    _log.warning("%s: there is no such setting; it changes nothing.%s", variable, hint)
    return False


def _parsed(key: str, text: str) -> Any:
    """A variable's value as the engine's configuration takes it; as it is, if it is none."""
    hint = get_type_hints(EngineConfig).get(key) if key in ENGINE_KEYS else str
    if str in (hint, *get_args(hint)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # As bytes, of which YAML itself says how they are encoded.
        content = yaml.safe_load(Path(at_home(str(path))).read_bytes()) or {}
    except RecursionError as error:
        raise ConfigError(f"{path}: cannot be read as YAML: it is nested too deeply.") from error
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {str(path)!r}: name a YAML file.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = in_one_line(error)
        remedy = " Save it as UTF-8." if isinstance(error, yaml.reader.ReaderError) else ""
        raise ConfigError(f"{path}: cannot be read as YAML: {said}.{remedy}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, such as `port: 8000`.")
    known = Settings.names()
    for key in map(str, content):
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}. {did_you_mean(key, known)}")
    if "api_key" in content and content["api_key"] is None:
        content["api_key"] = ""
    return content


def _source(
    key: str | None, flags: Mapping[str, object], environment: Mapping[str, object]
) -> str | None:
    """The flag or the variable that gave a setting; None for the file."""
    if key is None or (key not in flags and key not in environment):
        return None
    return f"--{key.replace('_', '-')}" if key in flags else ENV_PREFIX + key.upper()


def _models(config: EngineConfig) -> list[str]:
    """Every model that is to be loaded, by its name."""
    stages = (*config.stages, *config.alternatives)
    named = [config.model, *(getattr(stage, "model", None) for stage in stages)]
    return [name for name in named if isinstance(name, str)]
