"""What is told of a path that is not there: the one that was meant, if a base URL is off."""

from collections.abc import Collection, Iterable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from engine import nearest

_BASES = ("", "v1", "api", "openai", "anthropic")
"""Parts of a path that are a base URL's, not an endpoint's."""
_LONGEST = 100


def no_such_path(method: str, path: str, routes: Iterable[BaseRoute]) -> HTTPException:
    """A 404 that names the path which was meant, if one is like it, or where to look."""
    known = [*_known(method, routes)]
    meant = _on_another_base(path, known) or nearest(path, known, cutoff=0.8)
    told = f"There is no {method} {path[:_LONGEST]} here"
    if meant is None:
        return HTTPException(404, f"{told}; GET / tells what there is.")
    base = "the base URL of an OpenAI client ends with /v1, once, and that of others does not"
    return HTTPException(404, f"{told}. Did you mean {meant}? Look at the base URL: {base}.")


def _known(method: str, routes: Iterable[BaseRoute]) -> Iterable[str]:
    for route in routes:
        described: Any = route
        if method in (getattr(route, "methods", None) or ()) and "{" not in described.path:
            yield described.path


def _on_another_base(path: str, known: Collection[str]) -> str | None:
    """The known path that has the same endpoint, whatever stands before it."""
    endpoint = _endpoint(path)
    return next((each for each in known if endpoint and _endpoint(each) == endpoint), None)


def _endpoint(path: str) -> tuple[str, ...]:
    parts = path.lower().split("/")
    while parts and parts[0] in _BASES:
        parts.pop(0)
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)
