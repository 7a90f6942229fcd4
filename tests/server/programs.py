"""Programs of other people that tests run, in our environment or in one beside it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ELSEWHERE = Path(os.environ.get("TESTED_CLIENTS", Path(sys.executable).parent.parent)) / "bin"
"""Where they are looked for first; not all of them can share an environment with us."""


def program(name: str) -> str:
    """The path of a program, or the test is left out."""
    found = shutil.which(name, path=os.pathsep.join((str(ELSEWHERE), os.environ["PATH"])))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
