"""What hangs on the application, for its handlers to ask for."""

import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from server.engines import EnginePool
from server.errors import ModelNotFoundError
from server.metrics import Metrics
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """The server's parts; `started_at` is in seconds of Unix time.

    `needs_key` is whether clients must have one.
    """

    settings: Settings
    pool: EnginePool
    metrics: Metrics
    needs_key: bool = False
    started_at: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str | None) -> None:
        """None is any model; raises ModelNotFoundError for one that is not served here."""
        if name not in (None, self.settings.model_id):
            asked, served = str(name)[:100], self.settings.model_id
            raise ModelNotFoundError(
                f"The model {asked!r} does not exist; this server has {served!r}.", param="model"
            )


def state_of(request: Request) -> State:
    """The state of the application that a request has come to."""
    state: State = request.app.state.server
    return state


AppState = Annotated[State, Depends(state_of)]
"""A parameter of this type is the application's state."""
