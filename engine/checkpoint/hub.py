"""Hugging Face's hub, where it cannot be reached."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from huggingface_hub import constants, get_session

from engine.names import find_folder

_SECONDS = 5.0
_VALID_SECONDS = 60.0
_known: dict[str, tuple[float, bool]] = {}
"""By the address of a hub: when it was asked, and whether it answered."""


@contextmanager
def asked_once(name: str) -> Iterator[None]:
    """While the block runs a hub that cannot be reached is not asked for what a name means.

    What is cached is found then, and whatever else is missing is so at once: the hub's own client
    would try for 23 s, for each file.
    """
    was_offline = constants.HF_HUB_OFFLINE
    if find_folder(name) is None and not was_offline:
        constants.HF_HUB_OFFLINE = not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _is_reachable(hub: str) -> bool:
    """Whether it answers; for all that is loaded together it is asked once."""
    asked_at, answers = _known.get(hub, (-math.inf, False))
    if monotonic() - asked_at > _VALID_SECONDS:
        try:
            get_session().head(hub, timeout=_SECONDS)
            answers = True
        except Exception:  # whatever a network may do
            answers = False
        _known[hub] = monotonic(), answers
    return answers
