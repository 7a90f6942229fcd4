"""Every setting of the server, on one flat level: the engine's keys stand beside the server's.

An engine's setting is a field of `engine.EngineConfig`, and a server's one of `Settings`: nowhere
else is there a list of them. `sources.py` reads them from flags, the environment and YAML.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engine import ConfigError, EngineConfig, in_one_line
from server.names import at_home, engine_at_home

# How many there are follows from `devices`.
ENGINE_KEYS = tuple(each.name for each in fields(EngineConfig) if each.name != "num_engines")
# These stages need no training and fit any target; and a server runs for long enough to have its
# passes compiled meanwhile.
_FREE = [{"kind": "ngram", "budget": 16, "children": 3}, {"kind": "recycle"}]
_SERVED: Mapping[str, Any] = {"stages": _FREE, "compile": "background"}


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
    if value is not None and not _parted(value):
        raise PydanticCustomError(
            "api_key", "it is empty: give a key, or leave it out to serve whoever comes."
        )
    return value


def _content(path: object) -> object:
    """The content of the file that is named."""
    try:
        return Path(at_home(str(path))).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PydanticCustomError(
            "file",
            "{path} cannot be read as text: {reason}.",
            {"path": repr(str(path)), "reason": in_one_line(error)},
        ) from error


def _parted(value: object) -> tuple[str, ...]:
    """Words that are listed, or parted by commas."""
    listed = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(word for each in listed if (word := str(each).strip()))


Parser = Literal["qwen3coder", "hermes", "granite", "mistral", "deepseek", "llama3", "fenced"]
Origins = Annotated[tuple[str, ...], BeforeValidator(_parted)]
Devices = Annotated[tuple[str, ...], BeforeValidator(_device_names)]


class Settings(BaseModel):
    """What one server runs with, made of one flat mapping; `load_settings` brings it together.

    Raises ConfigError for what the engine cannot use, and ValidationError for the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: InstanceOf[EngineConfig]
    # A draft model in place of the stages, above a live look-up.
    draft: Annotated[str, BeforeValidator(at_home)] | None = None
    # One engine process for each; the engine's `device` alone is one engine.
    devices: Devices = ()

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # Any of several keys, parted by commas, and those of a file, one a line.
    api_key: Annotated[SecretStr | None, BeforeValidator(_some_key)] = None
    api_key_file: Annotated[str, BeforeValidator(at_home)] | None = None
    # What is remembered of texts is of use only to those who come with the same key.
    salt_by_key: bool = False
    # Web pages that may ask, such as https://chat.example.org; "*" for all.
    allow_origin: Origins = ()
    # Connections stay open for so long between requests; proxies keep theirs for 60 s.
    keep_alive_seconds: int = Field(default=75, ge=1)
    # A stream that waits for its turn gets its headers, and comments, every so many seconds.
    stream_wait_seconds: float = Field(default=5.0, gt=0)
    served_model_name: str | None = None
    max_queue: int = Field(default=64, ge=0)
    queue_timeout: float = Field(default=120.0, gt=0)
    max_body_bytes: int = Field(default=8 * 2**20, ge=1)
    max_sequences: int = Field(default=128, ge=1)
    # Of all engines together; every one of them if left out.
    max_seats_per_request: int | None = Field(default=None, ge=1)
    drain_seconds: float = Field(default=30.0, ge=0)
    default_max_tokens: int = Field(default=16, ge=1)
    max_logprobs: int = Field(default=20, ge=0)
    # Of a file named, its content; else the model's own is used.
    chat_template: Annotated[str | None, BeforeValidator(_content)] = None
    # Else the chat template tells how its model writes calls of tools.
    tool_parser: Parser | None = None
    # Of fill-in-the-middle, such as "<PRE>{prefix}<SUF>{suffix}<MID>"; none if empty.
    fim_template: str | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _gather_engine(cls, flat: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in flat.items() if key in ENGINE_KEYS}
        rest = {key: value for key, value in flat.items() if key not in ENGINE_KEYS}
        if (draft := flat.get("draft")) is not None:
            given["stages"] = [{"kind": "model", "model": draft}, {"kind": "ngram"}]
        return {**rest, "engine": EngineConfig.from_mapping(engine_at_home({**_SERVED, **given}))}

    @field_validator("fim_template")
    @classmethod
    def _has_both_halves(cls, template: str | None) -> str | None:
        holes = ("{prefix}", "{suffix}")
        if template and any(template.count(hole) != 1 for hole in holes):
            raise PydanticCustomError(
                "fim_template",
                "it must have {{prefix}} and {{suffix}} once each, or be empty to have none.",
            )
        return template

    @field_validator("devices")
    @classmethod
    def _is_no_second_answer(cls, devices: tuple[str, ...], so_far: ValidationInfo) -> Any:
        device = so_far.data["engine"].device
        if devices and device != "auto":
            raise PydanticCustomError(
                "devices",
                "device is {device} already: leave out one of `device` and `devices`.",
                {"device": repr(device)},
            )
        return devices

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return (*ENGINE_KEYS, *(name for name in cls.model_fields if name != "engine"))

    @property
    def model_id(self) -> str:
        """The name that clients call the model by."""
        return self.served_model_name or self.engine.model

    def keys(self) -> tuple[str, ...]:
        """The keys of which clients must have one, none if all may come. Raises ConfigError."""
        given = self.api_key.get_secret_value() if self.api_key else ""
        keys = _parted(given)
        if self.api_key_file is None:
            return keys
        try:
            lines = Path(self.api_key_file).read_text().splitlines()
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"api_key_file: it cannot be read: {error}", "api_key_file") from None
        found = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        if not any(found):
            raise ConfigError(
                f"api_key_file: {self.api_key_file} has no key: write one a line.", "api_key_file"
            )
        return (*keys, *filter(None, found))

    def engine_configs(self) -> list[EngineConfig]:
        """The configuration of each of the server's engines."""
        devices = self.devices or (self.engine.device,)
        return [replace(self.engine, device=device, num_engines=len(devices)) for device in devices]

    def command_config(self, compile: Literal["wait", "cached"]) -> EngineConfig:
        """That of the one engine of a command that ends: on the first of several devices.

        `compile` is what compiling in the background means to it.
        """
        device = (*self.devices, self.engine.device)[0]
        is_background = self.engine.compile == "background"
        compiled = compile if is_background else self.engine.compile
        return replace(self.engine, device=device, compile=compiled)
