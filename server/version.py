"""The version of stagetree, as its package metadata has it."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("stagetree")
    except PackageNotFoundError:
        return "0.0.0+source"


VERSION = _installed()
