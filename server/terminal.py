"""What every command says to the terminal in the same way: messages, and errors in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from engine import EngineError, in_one_line
from server.errors import ApiError
from server.names import at_home

_log = logging.getLogger(__name__)

messages = Console(stderr=True, highlight=False)


def path_option(help: str) -> Any:
    """An option that is a path, in which `~` is home, also where no shell has read it so."""
    return typer.Option(help=help, parser=_path_at_home, metavar="PATH")


def model_option(help: str) -> Any:
    """An option that names a model: the same of a folder."""
    return typer.Option(help=help, parser=at_home, metavar="MODEL")


def _path_at_home(text: str) -> Path:
    return Path(at_home(text))


@contextmanager
def readable_errors() -> Iterator[None]:
    """Whatever goes wrong is told in one line, without a traceback.

    What nobody foresaw leaves its traceback in the log, for who asks for it.
    """
    try:
        yield
    except (EngineError, ApiError) as error:
        _log.debug("traceback:", exc_info=True)
        _tell(str(error))
        raise typer.Exit(2) from error
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except Exception as error:
        _log.debug("traceback:", exc_info=True)
        _tell(f"{in_one_line(error)} (STAGETREE_LOG_LEVEL=debug shows where)")
        raise typer.Exit(1) from error


def _tell(reason: str) -> None:
    line = " ".join(reason.split())
    messages.print(f"[red]error:[/] {escape(line)}", markup=True, soft_wrap=True)
