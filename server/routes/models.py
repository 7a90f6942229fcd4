"""`GET /v1/models` and `GET /v1/models/{id}`: the one model that this server serves."""

from fastapi import APIRouter

from server.protocol import ModelCard, ModelList
from server.state import AppState, State

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(state: AppState) -> ModelList:
    """Every model, which is one."""
    return ModelList(data=[_card(state)])


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, state: AppState) -> ModelCard:
    """One model by its id."""
    state.check_model(model_id)
    return _card(state)


def _card(state: State) -> ModelCard:
    engine = state.pool.nearest
    return ModelCard(
        id=state.settings.model_id,
        created=state.started_at,
        root=state.settings.engine.model,
        max_model_len=engine.info.max_model_len if engine.is_serving else None,
    )
