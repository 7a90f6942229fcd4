"""The exceptions of the engine. Each message says what was wrong and what to do about it.

EngineError
├── ConfigError            a setting the engine cannot use
├── ModelLoadError         weights or tables that cannot be loaded
├── InvalidRequestError    a request that can never run on this engine
│   └── ContextLengthError a prompt or a reply that its window cannot hold
├── EngineBusyError        a request that may be sent again as it is
└── EngineDiedError        the engine process ended while a request was running
"""

import difflib
from collections.abc import Sequence


class EngineError(Exception):
    """The root of everything the engine raises on purpose."""


class ConfigError(EngineError):
    """A configuration key or value that the engine cannot use; `key` is the outermost at fault."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class ModelLoadError(EngineError):
    """A model, draft or table that cannot be loaded, or that does not fit the target."""


class InvalidRequestError(EngineError):
    """A request that this engine can never run; `field` is the one of the request at fault."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(InvalidRequestError):
    """A prompt, or a prompt and its reply, that the model's window cannot hold."""


class EngineBusyError(EngineError):
    """What others have asked for must be done first; the request may be sent again as it is."""


class EngineDiedError(EngineError):
    """The engine process ended or stopped answering; the request it was running is lost."""


def in_one_line(error: BaseException) -> str:
    """What an error says to a user; of one that nobody raised on purpose its type too."""
    said = " ".join(str(error).split())
    if isinstance(error, EngineError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_line(error: BaseException) -> str:
    """What a library's error says first, without a full stop; its type where that is little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    is_opening = len(lines) > 1 and lines[0].endswith(":")
    said = " ".join(lines[: 2 if is_opening else 1]).rstrip(".")
    is_clear = said and not isinstance(error, KeyError | IndexError | AssertionError)
    return said if is_clear else f"{type(error).__name__} {said}".strip()


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The valid name that a misspelt one is most like, if one is like it at all (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, or all of them."""
    meant = nearest(name, known)
    return f"Did you mean {meant!r}?" if meant else f"Valid names: {', '.join(known)}."
