"""Every setting of the server, from its four sources: flags > environment > YAML > default.

One flat level: the engine's keys stand beside the server's.
"""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from engine import ConfigError, EngineConfig, find_folder, in_one_line
from server.names import at_home, stages_at_home

_log = logging.getLogger(__name__)

ENV_PREFIX = "STAGETREE_"
# As like a setting's name as that a variable means it. STAGETREE_SERVICE_HOST, which clusters make
# up for a service, is as like one as 0.6.
_MISSPELT = 0.75
DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"

_ENGINE_KEYS = (
    "model",
    "dtype",
    "device",
    "max_model_len",
    "prefill_chunk",
    "threads",
    "compile",
    "cache_dir",
    "stages",
    "alternatives",
)


def _device_names(value: object) -> tuple[str, ...]:
    """Torch's names of devices that are listed, or parted by commas; a number is a CUDA device."""
    listed = value if isinstance(value, list | tuple) else str(value).split(",")
    names = tuple(str(item).strip() for item in listed)
    for name in names:
        if not re.fullmatch(r"\d+|cpu|mps|cuda(:\d+)?", name):
            raise PydanticCustomError(
                "device",
                "{name} is no device: name each, such as 0,1 for two GPUs or cpu,cpu.",
                {"name": repr(name)},
            )
    return tuple(f"cuda:{name}" if name.isdigit() else name for name in names)


def _some_key(value: object) -> object:
    """An empty key would lock nothing, which nobody means who names one."""
    if value is not None and not str(value).strip():
        raise PydanticCustomError(
            "api_key", "it is empty: give a key, or leave it out to serve whoever comes."
        )
    return value


Devices = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_device_names)]
Named = Annotated[str, BeforeValidator(at_home)]
Stages = Annotated[list[dict[str, Any]], BeforeValidator(stages_at_home)]


class Settings(BaseSettings):
    """What one server runs with; build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    model: Named
    draft: Named | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    # One engine process for each; `device` alone is one engine.
    devices: Devices = ()
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    prefill_chunk: int = Field(default=512, ge=1)
    threads: int = Field(default=0, ge=0)
    compile: Literal["background", "wait", "cached", "never"] = "background"
    cache_dir: Named | None = None
    # The live look-up alone: the one stage that needs no training and fits any target.
    stages: Stages = [{"kind": "ngram"}]
    # Drafters that `stagetree bench` measures in the place of the first stage; never served.
    alternatives: Stages = []

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: Annotated[SecretStr | None, BeforeValidator(_some_key)] = None
    served_model_name: str | None = None
    max_queue: int = Field(default=64, ge=0)
    queue_timeout: float = Field(default=120.0, gt=0)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    max_sequences: int = Field(default=1024, ge=1)
    drain_seconds: float = Field(default=30.0, ge=0)
    default_max_tokens: int = Field(default=16, ge=1)
    max_logprobs: int = Field(default=20, ge=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("devices")
    @classmethod
    def _is_no_second_answer(cls, devices: tuple[str, ...], so_far: ValidationInfo) -> Any:
        if devices and (device := so_far.data.get("device", "auto")) != "auto":
            raise PydanticCustomError(
                "devices",
                "device is {device} already: leave out one of `device` and `devices`.",
                {"device": repr(device)},
            )
        return devices

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`load_settings` merges the sources, so that an error can name the one at fault."""
        return (init_settings,)

    @property
    def model_id(self) -> str:
        """The name that clients call the model by."""
        return self.served_model_name or self.model

    def engine_config(self, background_compile: str = "background") -> EngineConfig:
        """The engine's part; `draft` stands above a live look-up. Raises ConfigError.

        `background_compile` is what compiling in the background means to a command that ends. Of
        several devices it names the first.
        """
        mapping = {key: getattr(self, key) for key in _ENGINE_KEYS}
        mapping["device"] = (*self.devices, self.device)[0]
        if self.compile == "background":
            mapping["compile"] = background_compile
        if self.draft is not None:
            mapping["stages"] = [{"kind": "model", "model": self.draft}, {"kind": "ngram"}]
        return EngineConfig.from_mapping(mapping)

    def engine_configs(self) -> list[EngineConfig]:
        """The configuration of each of the server's engines; raises ConfigError."""
        first = self.engine_config()
        devices = self.devices or (self.device,)
        return [replace(first, device=device, num_engines=len(devices)) for device in devices]


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
        raise ConfigError(f"{_source(key, flags, environment, path)}: {first['msg']}") from error
    _check_engine_part(settings, path)
    for name in _models(settings):
        find_folder(name)
    return settings


def is_debugging() -> bool:
    """Whether the environment asks for the debug log, as it can of every command."""
    return os.environ.get(f"{ENV_PREFIX}LOG_LEVEL") == "debug"


def _environment() -> dict[str, Any]:
    variables = {name.upper(): value for name, value in os.environ.items()}
    for variable in sorted(variables):
        if variable.startswith(ENV_PREFIX):
            _check_variable(variable)
    try:
        given = EnvSettingsSource(Settings)()
    except (SettingsError, RecursionError) as error:
        raise ConfigError(f"environment: {in_one_line(error)}") from error
    # Other empty variables count as unset.
    is_empty = variables.get(f"{ENV_PREFIX}API_KEY") == ""
    return {**given, "api_key": ""} if is_empty else given


def _check_variable(variable: str) -> None:
    """Refuse a misspelt setting; others may mean somebody else by our name, and are told."""
    name, known = variable.removeprefix(ENV_PREFIX).lower(), list(Settings.model_fields)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {ENV_PREFIX}{close[0].upper()}?" if close else ""
    if difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT):
        raise ConfigError(f"{variable}: there is no such setting.{hint}")
    _log.warning("%s: there is no such setting; it changes nothing.%s", variable, hint)


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
    known = list(Settings.model_fields)
    for key in map(str, content):
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Valid names: {', '.join(known)}."
            raise ConfigError(f"{path}: unknown key {key!r}. {hint}")
    if "api_key" in content and content["api_key"] is None:
        content["api_key"] = ""
    return content


def _source(
    key: str, flags: Mapping[str, object], environment: Mapping[str, object], path: Path | None
) -> str:
    if key in flags:
        return f"--{key.replace('_', '-')}"
    variable = ENV_PREFIX + key.upper()
    if key in environment and variable in os.environ:
        return variable
    return f"{path or 'configuration'}: {key}"


def _check_engine_part(settings: Settings, path: Path | None) -> None:
    try:
        settings.engine_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error


def _models(settings: Settings) -> list[str]:
    """Every model that is to be loaded, by its name."""
    stages = [*settings.stages, *settings.alternatives]
    named = [settings.model, settings.draft, *(stage.get("model") for stage in stages)]
    return [name for name in named if isinstance(name, str)]
