"""What every command says to the terminal in the same way: messages, and errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from engine import EngineError
from server.errors import ApiError

messages = Console(stderr=True, highlight=False)


@contextmanager
def readable_errors() -> Iterator[None]:
    """What the user can mend is told in one line, without a traceback."""
    try:
        yield
    except (EngineError, ApiError) as error:
        messages.print(f"[red]error:[/] {escape(str(error))}", markup=True, soft_wrap=True)
        raise typer.Exit(2) from error
