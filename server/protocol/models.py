"""`GET /v1/models`: what is served."""

from typing import Literal

from server.protocol.wire import Wire


class ModelCard(Wire):
    """One entry of `GET /v1/models`; `root` is what was loaded, under whatever `id`.

    The window is null until the model has loaded.
    """

    id: str
    """The name that requests give."""
    object: Literal["model"] = "model"
    """What this is."""
    created: int
    """When the server began, in seconds of Unix time."""
    owned_by: Literal["stagetree"] = "stagetree"
    """Who serves it."""
    root: str
    """What was loaded."""
    max_model_len: int | None
    """The window, in tokens; null until it is known."""


class ModelList(Wire):
    """The body of `GET /v1/models`."""

    object: Literal["list"] = "list"
    """What this is."""
    data: list[ModelCard]
    """The one that is served."""
