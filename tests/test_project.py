"""The project's own files agree with each other, so that a fresh clone installs what was tested."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from engine import packaged

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_and_installed_at_its_pin() -> None:
    """Red when pyproject.toml gains a dependency without a line in constraints.txt."""
    pins = {canonical(name): pin for name, pin in PINS.items()}
    names = [each.name for each in REQUIREMENTS if each.marker is None]
    assert {name: version(name).partition("+")[0] for name in names} == {
        name: pins[canonical(name)] for name in names
    }


def test_a_packaged_model_is_pinned() -> None:
    """Red when `make serve MODEL=smollm2` installs what nobody has tested."""
    names = {canonical(name) for name in PINS}
    assert {model.package for model in packaged.PACKAGED.values()} <= names


def test_what_only_some_systems_need_is_installed_there_within_its_bounds() -> None:
    """Red when a requirement with a marker is pinned for all, or missing where it is needed."""
    conditional = [each for each in REQUIREMENTS if each.marker is not None]
    assert not {canonical(each.name) for each in conditional} & set(map(canonical, PINS))
    for each in conditional:
        if each.marker is not None and each.marker.evaluate():
            assert each.specifier.contains(version(each.name).partition("+")[0])


def test_pins_hold_on_every_platform() -> None:
    """Red when `pip freeze` brings a local build or a package that only one system has."""
    for name, pin in PINS.items():
        assert re.fullmatch(r"[\w.]+", pin), f"{name}=={pin} is not a released version"
        assert not canonical(name).startswith(("nvidia-", "cuda-", "triton"))


@pytest.mark.parametrize("target", ["serve", "test", "check", "fix", "bench", "clean"])
def test_make_help_names_every_target(target: str) -> None:
    """Red when a target loses the comment that `make help` prints."""
    assert re.search(rf"^{target}:.* ## \w", (ROOT / "Makefile").read_text(), re.MULTILINE)
