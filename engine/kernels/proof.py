"""Whether kernels for GPUs do on the one of this process what they should."""

import logging
from collections.abc import Callable
from functools import cache

_log = logging.getLogger(__name__)


@cache
def holds(check: Callable[[str], None], otherwise: str) -> bool:
    """Whether `check("cuda")` raises nothing; tried once, and a failure is logged.

    `otherwise` says what is done without the kernel.
    """
    try:
        check("cuda")
    except Exception as error:  # whatever Triton, its compiler or the device may raise
        _log.warning("%s, since our kernel for GPUs cannot be used: %s", otherwise, error)
        return False
    return True
