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

from engine import EngineConfig, in_one_line
from server.names import at_home, engine_at_home

# How many there are follows from `devices`.
ENGINE_KEYS = tuple(each.name for each in fields(EngineConfig) if each.name != "num_engines")
# The live look-up is the one stage that needs no training and fits any target; and a server runs
# for long enough to have its passes compiled meanwhile.
_SERVED: Mapping[str, Any] = {"stages": [{"kind": "ngram"}], "compile": "background"}


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
    api_key: Annotated[SecretStr | None, BeforeValidator(_some_key)] = None
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
    tool_parser: Literal["hermes", "llama3", "mistral", "fenced"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="before")
    @classmethod
    def _gather_engine(cls, flat: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in flat.items() if key in ENGINE_KEYS}
        rest = {key: value for key, value in flat.items() if key not in ENGINE_KEYS}
        if (draft := flat.get("draft")) is not None:
            given["stages"] = [{"kind": "model", "model": draft}, {"kind": "ngram"}]
        return {**rest, "engine": EngineConfig.from_mapping(engine_at_home({**_SERVED, **given}))}

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
