"""Hugging Face's hub, where it cannot be reached."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.hub import only_if_reachable
from engine.names import find_folder


@contextmanager
def asked_once(name: str) -> Iterator[None]:
    """While the block runs a hub that cannot be reached is not asked for what a name means."""
    if find_folder(name) is not None:
        yield
        return
    with only_if_reachable():
        yield
