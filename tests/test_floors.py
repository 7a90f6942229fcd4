"""What an import drags along, asked of a fresh interpreter; `make check` reads the same floors."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MODELS = {"torch", "transformers"}
MESSAGES = {"zmq", "msgspec"}
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "typer"}


def imported_by(module: str) -> set[str]:
    """The top-level packages in `sys.modules` after `import module`."""
    program = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return {name.partition(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("engine", MODELS | MESSAGES | WEB | {"numpy"}),
        ("engine.process", MODELS | WEB),
        ("engine.api", MESSAGES | WEB),
        ("server.cli", MODELS | MESSAGES | {"fastapi"}),
        ("server.run, server.text", MODELS),
    ],
)
def test_importing_a_door_leaves_the_heavy_packages_out(module: str, banned: set[str]) -> None:
    """Red when an import at the top of a file reaches what belongs behind another door."""
    assert not imported_by(module) & banned


def test_asking_the_front_door_for_its_handle_imports_the_messages_and_no_model() -> None:
    """Red when the handle on an engine process imports the engine that it only starts."""
    packages = imported_by("engine; engine.EngineProcess; import sys")
    assert packages >= MESSAGES
    assert not packages & MODELS


_READERS = {"AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"}


def test_whoever_reads_a_checkpoint_says_that_its_code_is_not_run() -> None:
    """Red when transformers is left to ask on the terminal whether to run what was downloaded."""
    files = [
        file for room in ("engine", "server", "benchmarks") for file in (ROOT / room).rglob("*.py")
    ]
    sources = [source for file in files if "Auto" in (source := file.read_text())]
    calls = [
        node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] in _READERS
    ]
    assert len(calls) > 5
    assert not [call for call in calls if "trust_remote_code=False" not in ast.unparse(call)]


def test_gpu_tests_are_collected_where_only_torch_and_pytest_are_installed() -> None:
    """Red when collecting them imports a server, or what only pytest's plugins know is set."""
    command = "-m pytest -m gpu --collect-only -q -p tests.bare -p no:timeout"
    done = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    assert "tests/engine/test_gpu.py" in done.stdout and "tests/server" not in done.stdout
