"""`GET /v1/models` and `GET /v1/models/{id}`."""

import time

from fastapi import APIRouter

from server.engine_pool import EnginePool
from server.errors import ModelNotFoundError
from server.protocol import ModelCard, ModelList
from server.settings import Settings


def models_router(settings: Settings, pool: EnginePool) -> APIRouter:
    """The one model that this server serves."""
    router = APIRouter(tags=["models"])
    created = int(time.time())

    def card() -> ModelCard:
        info = pool.nearest.info
        window = info.max_model_len if info else None
        return ModelCard(
            id=settings.model_id, created=created, root=settings.model, max_model_len=window
        )

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        """Every model, which is one."""
        return ModelList(data=[card()])

    @router.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> ModelCard:
        """One model by its id."""
        if model_id != settings.model_id:
            raise ModelNotFoundError(
                f"The model {model_id!r} does not exist; this server has {settings.model_id!r}.",
                param="model",
            )
        return card()

    return router
