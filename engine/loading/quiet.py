"""What transformers says while it loads, which is for us alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import Handler, LogRecord
from threading import RLock

from transformers.utils import logging

_LOCK = RLock()
"""Who reads a tokenizer beside others is not to put back what they have put there."""


@contextmanager
def silence() -> Iterator[list[str]]:
    """Keep what transformers says to ourselves: who loads hears of faults in one line of ours."""
    with _LOCK:
        yield from _silenced()


def _silenced() -> Iterator[list[str]]:
    logger, was_enabled = logging.get_logger("transformers"), logging.is_progress_bar_enabled()
    before = logger.handlers, logger.propagate
    said: list[str] = []
    logger.handlers, logger.propagate = [_Listener(said)], False
    logging.disable_progress_bar()
    try:
        yield said
    finally:
        logger.handlers, logger.propagate = before
        if was_enabled:
            logging.enable_progress_bar()


class _Listener(Handler):
    """Adds what is logged to a list."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: LogRecord) -> None:
        """Take a message."""
        self._said.append(record.getMessage())


def unconverted(said: Sequence[str]) -> list[str]:
    """The weights that transformers could not put together, from its report: experts, for one."""
    lines = [line for report in said for line in report.splitlines()]
    return [line.split("|")[0].strip() for line in lines if "CONVERSION" in line and "|" in line]
