"""Settings that a plain mapping can fill, with errors that name key, place and remedy."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, did_you_mean

Positive = Annotated[int, "positive"]


@dataclass(frozen=True, slots=True)
class Section:
    """A group of settings; its fields are the keys that are known."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "") -> Self:
        """Build this section; raises ConfigError naming the key, its place and the remedy."""
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                raise ConfigError(
                    f"unknown key {where}{key!s}. {did_you_mean(str(key), known)}", str(key)
                )
        hints = get_type_hints(cls, include_extras=True)
        for key, value in mapping.items():
            if not _fits(value, hints[key]):
                expected = _describe(hints[key])
                raise ConfigError(f"{where}{key} must be {expected}, but it is {value!r}.", key)
        for field in fields(cls):
            if field.default is MISSING and field.name not in mapping:
                raise ConfigError(f"{where}{field.name} is missing: it has no default.", field.name)
        return cls(**mapping)


def _fits(value: object, hint: object) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is Annotated:
        return _fits(value, int) and value != 0
    if origin is tuple:
        return isinstance(value, tuple)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: object) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is Annotated:
        return "a whole number, 1 or more"
    if hint is type(None):
        return "null"
    if hint is int:
        return "a whole number, 0 or more"
    return getattr(hint, "__name__", str(hint))
