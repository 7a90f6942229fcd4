"""`GET /v1/models`: what is served."""

from typing import Literal

from server.protocol.wire import Wire


class ModelCard(Wire):
    """One entry of `GET /v1/models`; `root` is what was loaded, under whatever `id`.

    The window is null until the model has loaded.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["stagetree"] = "stagetree"
    root: str
    max_model_len: int | None


class ModelList(Wire):
    """The body of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
