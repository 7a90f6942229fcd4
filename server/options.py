"""The settings that are flags: what `--help` says of each, and the commands that take them."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from engine import EngineConfig
from server.settings import ENGINE_KEYS, Settings
from server.sources import load_settings
from server.terminal import path_option, readable_errors

HELP: Mapping[str, str] = {
    "model": "A Hugging Face id, a folder, a GGUF file, embedded/target or smollm2.",
    "draft": "A draft model for the model.",
    "lora": "An adapter to merge into the model.",
    "dtype": "Precision of the weights.",
    "device": "auto, cpu, cuda, mps.",
    "devices": "0,1 or cpu,cpu: an engine process on each.",
    "threads": "CPU threads; 0: as torch has it, parted among engines.",
    "max_model_len": "Prompt plus reply, tokens.",
    "max_running": "Texts written at once; as memory allows if left out.",
    "host": "Address to listen on.",
    "port": "Port to listen on; 0 picks one.",
    "api_key": "Asked of clients; several: a,b.",
    "api_key_file": "More keys, one a line.",
    "allow_origin": "Web pages that may ask: https://a.org,... or *.",
    "served_model_name": "The model's public name.",
    "chat_template": "A Jinja file for the model's own.",
    "tool_parser": "How the model writes calls.",
    "max_queue": "Requests that may wait.",
    "drain_seconds": "Grace period of SIGTERM and Ctrl-C.",
    "log_level": "How much to log.",
}
"""By name, as a server takes them; others are lines of its YAML file, or variables."""

MODEL_FLAGS = ("model", "draft", "lora", "dtype", "device", "threads")
"""Those of every command that loads models."""

_CONFIG = Parameter(
    "config",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None, path_option(help="A YAML file; the embedded family's unless a model is named.")
    ],
)

Command = Callable[..., None]


def with_settings(*names: str, argument: str | None = None) -> Callable[[Command], Command]:
    """Give a command a flag for each of these settings, and `--config`.

    They stand in place of its parameter `settings`, which gets what they and the other sources say;
    `argument` is the one that needs no flag. What goes wrong is told in one line.
    """

    def decorate(command: Command) -> Command:
        own = signature(command, eval_str=True).parameters.values()
        flags = [_parameter(name, name == argument) for name in names]
        parameters = [each for each in own if each.name != "settings"] + [_CONFIG, *flags]

        @wraps(command)
        def run(config: Path | None, **given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            with readable_errors():
                named = {name: value for name, value in flags.items() if value is not None}
                settings = load_settings(config, named)
                if settings.chat_template is not None:
                    from server.text import check_template  # slow to import, and --help needs none

                    check_template(settings.chat_template)
                command(settings=settings, **given)

        run.__signature__ = Signature(  # type: ignore[attr-defined]
            [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
        )
        return run

    return decorate


def _parameter(name: str, is_argument: bool) -> Parameter:
    kind = typer.Argument if is_argument else typer.Option
    annotation: Any = Annotated[_told_as(name) | None, kind(help=HELP[name])]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _told_as(name: str) -> Any:
    """The type that a flag of a setting has: its own, without limits; text for what is parsed."""
    if name in ENGINE_KEYS:
        hint = get_type_hints(EngineConfig)[name]
    else:
        hint = Settings.model_fields[name].annotation
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = next(each for each in options if each is not type(None))
    return plain if plain in (int, float) or get_origin(plain) is Literal else str
