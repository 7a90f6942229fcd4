"""The `stagetree` command."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from engine import ConfigError
from server.settings import Settings, load_settings
from server.version import VERSION

app = typer.Typer(
    name="stagetree", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
_console = Console(stderr=True)


@app.callback()
def stagetree() -> None:
    """An OpenAI-compatible server that decodes by staged tree speculative decoding."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Argument(help="A Hugging Face id, a folder, or embedded/target.")
    ] = None,
    draft: Annotated[str | None, typer.Option(help="A draft model for MODEL.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file; configs/embedded.yaml unless MODEL is given.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps...")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Prompt plus reply, tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0 leaves it to torch.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Asked of clients under /v1/.")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="The model's public name.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Grace period of SIGTERM.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve a model over HTTP; the embedded family when none is named.

    Every setting may also be an environment variable (STAGETREE_PORT=8001) or a line of the YAML
    file; flags win over the environment, and the environment over the file.
    """
    given = dict(locals())
    flags = {key: value for key, value in given.items() if value is not None and key != "config"}
    try:
        settings = load_settings(config, flags)
    except ConfigError as error:
        _console.print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(2) from error
    _set_up_logging(settings.log_level)
    _greet(settings)
    from server.run import serve as run_server  # fastapi is slow to import, and help needs none

    run_server(settings)


def _set_up_logging(level: str) -> None:
    handler = RichHandler(console=_console, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=level.upper(), format="%(message)s", handlers=[handler])
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))


def _greet(settings: Settings) -> None:
    """One line to know where it is, and one to try it."""
    url = f"http://{settings.host}:{settings.port}"
    key = " -H 'Authorization: Bearer KEY'" if settings.api_key else ""
    body = '{"prompt": "def fibonacci(n):", "max_tokens": 64, "temperature": 0}'
    _console.print(f"stagetree {VERSION} serves {settings.model_id} on {url}", highlight=False)
    _console.print(
        f"try: curl {url}/v1/completions -H 'Content-Type: application/json'{key} -d '{body}'",
        highlight=False,
        soft_wrap=True,
    )
