"""Training runs where torch and transformers do: what serves and what shows is not needed."""

import subprocess
import sys

ABSENT = ("rich", "typer", "fastapi", "starlette", "uvicorn", "pydantic", "zmq", "msgspec")


def test_training_needs_nothing_of_a_server_or_a_terminal() -> None:
    """Red when a module of training imports what a rented machine does not have."""
    program = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    program += "import engine.training.family, engine.training.workshop"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
