"""A plugin, `-p tests.bare`, that hides what a machine with a GPU may not have installed."""

import sys

for _name in (
    "fastapi",
    "msgspec",
    "openai",
    "prometheus_client",
    "pydantic",
    "starlette",
    "uvicorn",
    "zmq",
):
    sys.modules[_name] = None  # type: ignore[assignment]
