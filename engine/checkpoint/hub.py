"""Hugging Face's hub, where it cannot be reached."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

from engine.names import find_folder

_SECONDS = 5.0


@contextmanager
def asked_once(name: str) -> Iterator[None]:
    """While the block runs a hub that cannot be reached is not asked for what a name means.

    What is cached is found then, and whatever else is missing is so at once: the hub's own client
    would try for 23 s, for each file.
    """
    was_offline = constants.HF_HUB_OFFLINE
    if find_folder(name) is None and not was_offline:
        constants.HF_HUB_OFFLINE = not _is_reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _is_reachable() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # whatever a network may do
        return False
    return True
